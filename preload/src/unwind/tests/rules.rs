//! Our rules and gimli's, for every row of every function of libraries of this machine.

use std::path::Path;

use gimli::{
    BaseAddresses, CfaRule, EhFrame as GimliFrame, LittleEndian, RegisterRule, UnwindContext, UnwindSection, X86_64,
};
use object::{Object, ObjectSection, ObjectSegment};

use super::super::bytes::Region;
use super::super::eh_frame::EhFrame;
use super::super::rule::{Cfa, Rule};

fn ours<'a>(object: &object::File<'a>) -> Option<EhFrame<'a>> {
    let header = object.section_by_name(".eh_frame_hdr")?.address();
    let segment =
        object.segments().find(|segment| (segment.address()..segment.address() + segment.size()).contains(&header))?;
    EhFrame::new(Region { start: segment.address(), bytes: segment.data().ok()? }, header)
}

/// What gimli says about a row, in our words.
fn expected(
    row: &gimli::UnwindTableRow<usize>,
    is_signal: bool,
    expressions: &GimliFrame<gimli::EndianSlice<'_, LittleEndian>>,
) -> Rule {
    if is_signal {
        return Rule::Signal;
    }
    match row.register(X86_64::RA) {
        // A register that nobody mentions.
        None | Some(RegisterRule::Undefined) => return Rule::End,
        Some(RegisterRule::Offset(-8)) => {}
        _ => return Rule::Unknown,
    }
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } => Cfa::Rsp(*offset as i32),
        CfaRule::RegisterAndOffset { register: X86_64::RBP, offset } => Cfa::Rbp(*offset as i32),
        CfaRule::RegisterAndOffset { .. } => return Rule::Unknown,
        CfaRule::Expression(expression) => {
            use gimli::Operation::*;
            let expression = expression.get(expressions).unwrap();
            let encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
            let mut operations = expression.operations(encoding);
            let operations: Vec<_> = std::iter::from_fn(|| operations.next().unwrap()).collect();
            match operations[..] {
                [RegisterOffset { register, offset, .. }, Deref { .. }] if register == X86_64::RBP => {
                    Cfa::AtRbp(offset as i32)
                }
                [RegisterOffset { register, offset, .. }, Deref { .. }] if register == X86_64::RSP => {
                    Cfa::AtRsp(offset as i32)
                }
                [
                    RegisterOffset { .. },
                    RegisterOffset { .. },
                    ..,
                    UnsignedConstant { value },
                    Ge,
                    UnsignedConstant { value: 3 },
                    Shl,
                    Plus,
                ] => Cfa::Plt(value as u8),
                _ => return Rule::Unknown,
            }
        }
    };
    let rbp = match row.register(X86_64::RBP) {
        None | Some(RegisterRule::SameValue) => None,
        Some(RegisterRule::Offset(offset)) => Some(offset as i32),
        _ => return Rule::Unknown,
    };
    Rule::Frame { cfa, rbp }
}

/// Compares all rows; how many there are.
fn compare(path: &Path) -> usize {
    let Ok(data) = std::fs::read(path) else { return 0 };
    // A text that tells the linker what to do may end in `.so` as well.
    let Ok(object) = object::File::parse(&*data) else { return 0 };
    let (Some(ours), Some(section)) = (ours(&object), object.section_by_name(".eh_frame")) else { return 0 };
    let data = section.data().unwrap();
    let theirs = GimliFrame::new(data, LittleEndian);
    let text = object.section_by_name(".text").map_or(0, |text| text.address());
    let bases = BaseAddresses::default().set_eh_frame(section.address()).set_text(text);
    let mut context = UnwindContext::new();
    let (mut entries, mut n_rows) = (theirs.entries(&bases), 0);
    while let Some(entry) = entries.next().unwrap() {
        let gimli::CieOrFde::Fde(partial) = entry else { continue };
        let function = partial.parse(GimliFrame::cie_from_offset).unwrap();
        if function.len() == 0 {
            continue;
        }
        let mut table = function.rows(&theirs, &bases, &mut context).unwrap();
        while let Some(row) = table.next_row().unwrap() {
            let expected = expected(row, function.is_signal_trampoline(), &theirs);
            for address in [row.start_address(), row.end_address().min(function.end_address()) - 1] {
                if row.start_address() < row.end_address() && address < function.end_address() {
                    assert_eq!(ours.rule(address), Some(expected), "{} at {address:#x}", path.display());
                    n_rows += 1;
                }
            }
        }
    }
    n_rows
}

#[test]
fn rules_are_those_that_gimli_reads() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths: Vec<&str> = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).collect();
    // The largest users of C++ exceptions and of hand-written assembly that most machines have.
    paths.extend([
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
        "/usr/lib/x86_64-linux-gnu/libffi.so.8",
        "/usr/lib/x86_64-linux-gnu/libgmp.so.10",
    ]);
    paths.sort();
    paths.dedup();
    let n_rows: usize = paths.iter().map(|path| compare(Path::new(path))).sum();
    println!("{n_rows} rows of {} files", paths.len());
    assert!(n_rows > 10_000, "{n_rows}");
}
