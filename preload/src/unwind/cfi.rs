//! Call frame instructions (DWARF 5, 6.4.2), run as far as one instruction of a function, to the rule there.
//!
//! Registers other than `rsp`, `rbp` and the return address are nobody's business here; what needs them can't be followed.

use super::bytes::{Cursor, Region};
use super::eh_frame::pointer;
use super::rule::{Cfa, Rule};

/// DWARF numbers of registers (System V ABI for x86-64, figure 3.36).
const RBP: u64 = 6;
const RSP: u64 = 7;
pub const RETURN_ADDRESS: u8 = 16;

/// The instructions of a function, and what their numbers mean.
pub struct Program<'a> {
    pub start: u64,
    pub code_alignment: u64,
    pub data_alignment: i64,
    pub pointer_encoding: u8,
    /// Those that functions have in common come first.
    pub common: Region<'a>,
    pub instructions: Region<'a>,
}

/// A row of the table that the instructions describe.
#[derive(Clone, Copy)]
struct Row<'a> {
    cfa: CfaRule<'a>,
    rbp: Register,
    return_address: Register,
}

#[derive(Clone, Copy)]
enum CfaRule<'a> {
    Undefined,
    Register(u64, i64),
    Expression(Region<'a>),
}

/// Where a register of the caller is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Register {
    /// Where it was.
    Same,
    /// Nowhere; as a return address, there is no caller.
    Undefined,
    /// In memory, counted from the CFA.
    Saved(i64),
    /// Somewhere that we don't follow.
    Elsewhere,
}

/// Rows that can be set aside; compilers need one.
const MAX_REMEMBERED: usize = 8;

/// The rule at an address of the function; `None` of instructions that make no sense.
pub fn run(program: &Program<'_>, address: u64) -> Option<Rule> {
    let empty = Row { cfa: CfaRule::Undefined, rbp: Register::Same, return_address: Register::Undefined };
    let mut machine =
        Machine { program, row: empty, initial: empty, remembered: [empty; MAX_REMEMBERED], n_remembered: 0 };
    machine.run(program.common, u64::MAX)?;
    machine.initial = machine.row;
    machine.run(program.instructions, address)?;
    Some(machine.row.rule())
}

struct Machine<'p, 'a> {
    program: &'p Program<'a>,
    row: Row<'a>,
    /// What the common instructions came to.
    initial: Row<'a>,
    remembered: [Row<'a>; MAX_REMEMBERED],
    n_remembered: usize,
}

impl<'a> Machine<'_, 'a> {
    /// Runs instructions until they are about an address behind this one.
    fn run(&mut self, instructions: Region<'a>, address: u64) -> Option<()> {
        let mut cursor = instructions.beginning();
        let mut location = self.program.start;
        while !cursor.is_at_end() && location <= address {
            let operation = cursor.u8()?;
            let low = u64::from(operation & 0x3f);
            let mut advance = |delta: u64| {
                location = location.wrapping_add(delta.wrapping_mul(self.program.code_alignment));
            };
            match operation {
                // DW_CFA_advance_loc, _loc1, _loc2, _loc4, and set_loc.
                0x40..=0x7f => advance(low),
                0x02 => advance(cursor.u8()?.into()),
                0x03 => advance(cursor.u16()?.into()),
                0x04 => advance(cursor.u32()?.into()),
                0x01 => location = pointer(&mut cursor, self.program.pointer_encoding, 0)?,
                _ => self.step(operation, low, &mut cursor)?,
            }
            if location > address {
                break;
            }
        }
        Some(())
    }

    fn step(&mut self, operation: u8, low: u64, cursor: &mut Cursor<'a>) -> Option<()> {
        match operation {
            // DW_CFA_nop.
            0x00 => {}
            // DW_CFA_offset, _offset_extended, _offset_extended_sf, GNU_negative_offset_extended.
            0x80..=0xbf => {
                let offset = self.unsigned(cursor)?;
                self.set(low, Register::Saved(offset));
            }
            0x05 => {
                let (register, offset) = (cursor.uleb()?, self.unsigned(cursor)?);
                self.set(register, Register::Saved(offset));
            }
            0x11 => {
                let (register, offset) = (cursor.uleb()?, self.signed(cursor)?);
                self.set(register, Register::Saved(offset));
            }
            0x2f => {
                let (register, offset) = (cursor.uleb()?, self.unsigned(cursor)?);
                self.set(register, Register::Saved(offset.checked_neg()?));
            }
            // DW_CFA_restore, _restore_extended.
            0xc0..=0xff => self.restore(low),
            0x06 => {
                let register = cursor.uleb()?;
                self.restore(register);
            }
            // DW_CFA_undefined, _same_value, _register.
            0x07 => {
                let register = cursor.uleb()?;
                self.set(register, Register::Undefined);
            }
            0x08 => {
                let register = cursor.uleb()?;
                self.set(register, Register::Same);
            }
            0x09 => {
                let register = cursor.uleb()?;
                cursor.uleb()?;
                self.set(register, Register::Elsewhere);
            }
            // DW_CFA_remember_state, _restore_state.
            0x0a => {
                *self.remembered.get_mut(self.n_remembered)? = self.row;
                self.n_remembered += 1;
            }
            0x0b => {
                self.n_remembered = self.n_remembered.checked_sub(1)?;
                self.row = *self.remembered.get(self.n_remembered)?;
            }
            // DW_CFA_def_cfa, _def_cfa_sf, _def_cfa_register, _def_cfa_offset, _def_cfa_offset_sf.
            0x0c => self.row.cfa = CfaRule::Register(cursor.uleb()?, i64::try_from(cursor.uleb()?).ok()?),
            0x12 => self.row.cfa = CfaRule::Register(cursor.uleb()?, self.signed(cursor)?),
            0x0d => self.row.cfa = CfaRule::Register(cursor.uleb()?, self.cfa()?.1),
            0x0e => self.row.cfa = CfaRule::Register(self.cfa()?.0, i64::try_from(cursor.uleb()?).ok()?),
            0x13 => self.row.cfa = CfaRule::Register(self.cfa()?.0, self.signed(cursor)?),
            // DW_CFA_def_cfa_expression.
            0x0f => {
                let len = cursor.uleb()?;
                self.row.cfa = CfaRule::Expression(cursor.take(len)?);
            }
            // DW_CFA_expression, _val_expression.
            0x10 | 0x16 => {
                let (register, len) = (cursor.uleb()?, cursor.uleb()?);
                cursor.take(len)?;
                self.set(register, Register::Elsewhere);
            }
            // DW_CFA_val_offset, _val_offset_sf.
            0x14 | 0x15 => {
                let register = cursor.uleb()?;
                cursor.uleb()?;
                self.set(register, Register::Elsewhere);
            }
            // DW_CFA_GNU_args_size.
            0x2e => drop(cursor.uleb()?),
            _ => return None,
        }
        Some(())
    }

    fn set(&mut self, register: u64, rule: Register) {
        match register {
            RBP => self.row.rbp = rule,
            _ if register == u64::from(RETURN_ADDRESS) => self.row.return_address = rule,
            _ => {}
        }
    }

    fn restore(&mut self, register: u64) {
        match register {
            RBP => self.row.rbp = self.initial.rbp,
            _ if register == u64::from(RETURN_ADDRESS) => self.row.return_address = self.initial.return_address,
            _ => {}
        }
    }

    fn cfa(&self) -> Option<(u64, i64)> {
        match self.row.cfa {
            CfaRule::Register(register, offset) => Some((register, offset)),
            CfaRule::Undefined | CfaRule::Expression(_) => None,
        }
    }

    fn unsigned(&self, cursor: &mut Cursor<'_>) -> Option<i64> {
        i64::try_from(cursor.uleb()?).ok()?.checked_mul(self.program.data_alignment)
    }

    fn signed(&self, cursor: &mut Cursor<'_>) -> Option<i64> {
        cursor.sleb()?.checked_mul(self.program.data_alignment)
    }
}

impl Row<'_> {
    fn rule(&self) -> Rule {
        match self.return_address {
            Register::Undefined => return Rule::End,
            Register::Saved(-8) => {}
            _ => return Rule::Unknown,
        }
        let cfa = match self.cfa {
            CfaRule::Register(register, offset) => match (register, i32::try_from(offset)) {
                (RSP, Ok(offset)) => Some(Cfa::Rsp(offset)),
                (RBP, Ok(offset)) => Some(Cfa::Rbp(offset)),
                _ => None,
            },
            CfaRule::Expression(expression) => in_memory(expression).or_else(|| plt(expression)),
            CfaRule::Undefined => None,
        };
        let rbp = match self.rbp {
            Register::Same => Some(None),
            Register::Saved(offset) => i32::try_from(offset).ok().map(Some),
            Register::Undefined | Register::Elsewhere => None,
        };
        match (cfa, rbp) {
            (Some(cfa), Some(rbp)) => Rule::Frame { cfa, rbp },
            _ => Rule::Unknown,
        }
    }
}

const DW_OP_BREG6: u8 = 0x76;
const DW_OP_BREG7: u8 = 0x77;
const DW_OP_DEREF: u8 = 0x06;

/// `rbp` or `rsp` plus an offset, and what is there.
fn in_memory(expression: Region<'_>) -> Option<Cfa> {
    let mut cursor = expression.beginning();
    let register = cursor.u8()?;
    let offset = i32::try_from(cursor.sleb()?).ok()?;
    if cursor.u8()? != DW_OP_DEREF || !cursor.is_at_end() {
        return None;
    }
    match register {
        DW_OP_BREG6 => Some(Cfa::AtRbp(offset)),
        DW_OP_BREG7 => Some(Cfa::AtRsp(offset)),
        _ => None,
    }
}

/// What linkers write for the procedure linkage table: `rsp + 8 + ((rip & 15) >= second) * 8`.
fn plt(expression: Region<'_>) -> Option<Cfa> {
    const LIT0: u8 = 0x30;
    let &[DW_OP_BREG7, 8, 0x80, 0, 0x3f, 0x1a, second, 0x2a, 0x33, 0x24, 0x22] = expression.bytes else {
        return None;
    };
    let second = second.checked_sub(LIT0).filter(|second| *second < 16)?;
    Some(Cfa::Plt(second))
}
