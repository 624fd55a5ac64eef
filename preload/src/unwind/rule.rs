//! How to get from a frame to its caller's: one word, so that a table of rules is small and a step is short.

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

impl Rule {
    /// `None` when an offset is too large for the word, as no compiler makes it.
    pub fn pack(self) -> Option<u64> {
        const { assert!(CFA_BITS + RBP_BITS + 4 <= u64::BITS) }
        let (kind, cfa, rbp) = match self {
            Rule::End => return Some(END),
            Rule::Unknown => return Some(UNKNOWN),
            Rule::Signal => return Some(SIGNAL),
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
        if matches!(self, Rule::Frame { rbp: Some(0), .. }) || !fits(cfa, CFA_BITS) || !fits(rbp, RBP_BITS) {
            return None;
        }
        Some(kind | low_bits(cfa, CFA_BITS) << 4 | low_bits(rbp, RBP_BITS) << (4 + CFA_BITS))
    }

    pub fn unpack(word: u64) -> Rule {
        let offset = signed(word >> 4, CFA_BITS);
        let rbp = signed(word >> (4 + CFA_BITS), RBP_BITS);
        let cfa = match word & 0xf {
            RSP => Cfa::Rsp(offset),
            RBP => Cfa::Rbp(offset),
            AT_RBP => Cfa::AtRbp(offset),
            AT_RSP => Cfa::AtRsp(offset),
            PLT => Cfa::Plt(offset as u8),
            END => return Rule::End,
            SIGNAL => return Rule::Signal,
            _ => return Rule::Unknown,
        };
        Rule::Frame { cfa, rbp: if rbp == 0 { None } else { Some(rbp) } }
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
    signed(low_bits(value, bits), bits) == value
}

fn low_bits(value: i32, bits: u32) -> u64 {
    value as i64 as u64 & ((1 << bits) - 1)
}

fn signed(word: u64, bits: u32) -> i32 {
    let spare = u64::BITS - bits;
    ((word << spare) as i64 >> spare) as i32
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
                    assert_eq!(rule.pack().map(Rule::unpack), Some(rule));
                }
            }
        }
        for rule in [Rule::End, Rule::Unknown, Rule::Signal] {
            assert_eq!(rule.pack().map(Rule::unpack), Some(rule));
        }
        assert_eq!(Rule::Frame { cfa: Cfa::Rsp(8), rbp: Some(0) }.pack(), None);
        assert_eq!(Rule::Frame { cfa: Cfa::Rsp(8), rbp: Some(1 << 27) }.pack(), None);
        // An empty place of a table.
        assert_eq!(Rule::unpack(0), Rule::Unknown);
    }
}
