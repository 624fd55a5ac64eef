//! How to get from a frame to its caller's, and the same in one word: a table of rules is small and a step is short.

/// What the caller's registers are, told by those of the frame.
///
/// The canonical frame address (CFA) is what the stack pointer was before the call; the return address lies right below
/// it. Of the other registers only `rbp` is followed: nothing else leads to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The outermost frame.
    End,
    /// Nothing that we can follow.
    Unknown,
    /// The kernel called a handler here: the registers are those of the `ucontext` that the stack pointer leads to.
    Signal,
    Frame {
        cfa: Cfa,
        /// Where the caller's `rbp` lies, counted from the CFA; `None` when it is still in the register.
        rbp: Option<i32>,
    },
}

/// Where the CFA is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cfa {
    /// `rsp` plus this.
    Rsp(i32),
    /// `rbp` plus this.
    Rbp(i32),
    /// In the word at `rbp` plus this: functions that align their stack.
    AtRbp(i32),
    /// In the word at `rsp` plus this.
    AtRsp(i32),
    /// `rsp` plus 8, and 8 more from the second of its instructions on: an entry of the procedure linkage table. The second
    /// begins at this byte of sixteen.
    Plt(u8),
}

/// A rule in one word, as a table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed(pub u64);

impl Packed {
    /// Of no use when an offset is too large for the word, as no compiler makes it.
    pub fn new(rule: Rule) -> Packed {
        const { assert!(CFA_BITS + RBP_BITS + 4 <= u64::BITS) }
        let (kind, cfa, rbp) = match rule {
            Rule::End => return Packed(END),
            Rule::Unknown => return Packed(UNKNOWN),
            Rule::Signal => return Packed(SIGNAL),
            Rule::Frame { cfa, rbp } => {
                let (kind, offset) = match cfa {
                    Cfa::Rsp(offset) => (RSP, offset),
                    Cfa::Rbp(offset) => (RBP, offset),
                    Cfa::AtRbp(offset) => (AT_RBP, offset),
                    Cfa::AtRsp(offset) => (AT_RSP, offset),
                    Cfa::Plt(second) => (PLT, i32::from(second)),
                };
                (kind, offset, rbp.map_or(0, |offset| offset))
            }
        };
        // An offset of 0 would be above the return address.
        if matches!(rule, Rule::Frame { rbp: Some(0), .. }) || !fits(cfa, CFA_BITS) || !fits(rbp, RBP_BITS) {
            return Packed(UNKNOWN);
        }
        Packed(kind | low_bits(cfa, CFA_BITS) << 4 | low_bits(rbp, RBP_BITS) << (4 + CFA_BITS))
    }

    pub fn unpack(self) -> Rule {
        let offset = self.cfa_offset() as i32;
        let cfa = match self.0 & 0xf {
            RSP => Cfa::Rsp(offset),
            RBP => Cfa::Rbp(offset),
            AT_RBP => Cfa::AtRbp(offset),
            AT_RSP => Cfa::AtRsp(offset),
            PLT => Cfa::Plt(offset as u8),
            END => return Rule::End,
            SIGNAL => return Rule::Signal,
            _ => return Rule::Unknown,
        };
        let rbp = self.rbp_offset() as i32;
        Rule::Frame { cfa, rbp: if rbp == 0 { None } else { Some(rbp) } }
    }

    /// Whether it is what nearly all code has: the CFA is one of the two registers plus something. The other parts of the
    /// word can be asked then, which spares the processor a jump that it can't foresee.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        const { assert!(RBP == RSP | 1) }
        self.0 & 0xf | 1 == RBP
    }

    /// Whether it is `rbp`, and not `rsp`, that a plain one adds to.
    #[inline(always)]
    pub fn is_on_rbp(self) -> bool {
        self.0 & 1 != 0
    }

    /// What a plain one adds.
    #[inline(always)]
    pub fn cfa_offset(self) -> i64 {
        signed(self.0 >> 4, CFA_BITS)
    }

    /// Where the caller's `rbp` lies, counted from the CFA; 0 when it is still in the register.
    #[inline(always)]
    pub fn rbp_offset(self) -> i64 {
        signed(self.0 >> (4 + CFA_BITS), RBP_BITS)
    }
}

const UNKNOWN: u64 = 1;
const END: u64 = 2;
const SIGNAL: u64 = 3;
const RSP: u64 = 4;
const RBP: u64 = 5;
const AT_RBP: u64 = 6;
const AT_RSP: u64 = 7;
const PLT: u64 = 8;

const CFA_BITS: u32 = 32;
const RBP_BITS: u32 = 28;

fn fits(value: i32, bits: u32) -> bool {
    signed(low_bits(value, bits), bits) == value.into()
}

fn low_bits(value: i32, bits: u32) -> u64 {
    value as i64 as u64 & ((1 << bits) - 1)
}

#[inline(always)]
fn signed(word: u64, bits: u32) -> i64 {
    let spare = u64::BITS - bits;
    (word << spare) as i64 >> spare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_its_word() {
        for offset in [0, 8, 16, -8, 24, 1 << 20, i32::MAX, i32::MIN] {
            for rbp in [None, Some(-16), Some(-8), Some(-(1 << 20)), Some(8)] {
                for cfa in [Cfa::Rsp(offset), Cfa::Rbp(offset), Cfa::AtRbp(offset), Cfa::AtRsp(offset), Cfa::Plt(11)] {
                    let rule = Rule::Frame { cfa, rbp };
                    let is_plain = matches!(cfa, Cfa::Rsp(_) | Cfa::Rbp(_));
                    assert_eq!(Packed::new(rule).is_plain(), is_plain, "{rule:?}");
                    assert_eq!(Packed::new(rule).unpack(), rule);
                }
            }
        }
        for rule in [Rule::End, Rule::Unknown, Rule::Signal] {
            assert_eq!(Packed::new(rule).unpack(), rule);
            assert!(!Packed::new(rule).is_plain());
        }
        assert_eq!(Packed::new(Rule::Frame { cfa: Cfa::Rsp(8), rbp: Some(0) }).unpack(), Rule::Unknown);
        assert_eq!(Packed::new(Rule::Frame { cfa: Cfa::Rsp(8), rbp: Some(1 << 27) }).unpack(), Rule::Unknown);
        // An empty place of a table.
        assert_eq!(Packed(0).unpack(), Rule::Unknown);
    }
}
