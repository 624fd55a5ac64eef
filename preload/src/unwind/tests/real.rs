//! Stacks of this very process, beside what libgcc's unwinder says about them.
//!
//! # Safety
//! Dangerous: reads this thread's registers and stack, and calls C. What is read is above the running function, and no
//! module of a test is unloaded.

use std::arch::asm;
use std::ffi::{c_int, c_void};

use std::cell::RefCell;
use std::collections::HashMap;

use super::super::maps::Maps;
use super::super::memo::Memo;
use super::super::modules::Modules;
use super::super::rule::Packed;
use super::super::walk::{At, Registers, Stack, Step};

unsafe extern "C" {
    fn _Unwind_Backtrace(visit: extern "C" fn(*mut c_void, *mut c_void) -> c_int, data: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn qsort(base: *mut c_void, n: usize, size: usize, compare: extern "C" fn(*const c_void, *const c_void) -> c_int);
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn raise(number: c_int) -> c_int;
}

/// All memory: a test's stack is its own.
struct Memory;

impl Stack for Memory {
    fn word(&self, address: u64) -> Option<u64> {
        address.is_multiple_of(8).then(|| unsafe { *(address as *const u64) })
    }
}

fn ours(mut frame: Registers) -> Vec<u64> {
    let mut modules = Modules::new();
    assert!(modules.look(&Maps::read().unwrap()));
    let mut addresses = vec![frame.pc];
    loop {
        let address = frame.code_address();
        let module = modules.find(address).unwrap_or_else(|| panic!("nobody knows {address:#x}"));
        match frame.step(Packed::new(unsafe { module.rule(address) }), &Memory) {
            Step::Caller(caller) => frame = caller,
            Step::End => return addresses,
            Step::Cut => panic!("cut off behind {} frames at {address:#x}", addresses.len()),
        }
        addresses.push(frame.pc);
    }
}

extern "C" fn push(context: *mut c_void, addresses: *mut c_void) -> c_int {
    unsafe { (*addresses.cast::<Vec<u64>>()).push(_Unwind_GetIP(context) as u64) };
    0
}

/// Compares the stack from here on; how deep it is.
#[inline(never)]
fn compare() -> usize {
    let (pc, sp, bp): (u64, u64, u64);
    unsafe { asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) pc, out(reg) sp, out(reg) bp) };
    let ours = ours(Registers { pc, sp, bp, at: At::Interruption });
    let mut theirs = Vec::<u64>::new();
    unsafe { _Unwind_Backtrace(push, (&raw mut theirs).cast()) };
    // In this function the two stand at different instructions, and libgcc ends with a zero.
    theirs.retain(|&address| address != 0);
    let hex = |addresses: &[u64]| addresses.iter().map(|address| format!("{address:x}")).collect::<Vec<_>>();
    assert_eq!(hex(&ours[1..]), hex(&theirs[1..]));
    ours.len()
}

#[inline(never)]
fn recurse(depth: usize) -> usize {
    if depth == 0 { compare() } else { std::hint::black_box(recurse(depth - 1)) }
}

/// A frame that is aligned more than the stack is.
#[inline(never)]
fn aligned(depth: usize) -> usize {
    #[repr(align(128))]
    struct Wide([u8; 256]);
    let wide = std::hint::black_box(Wide([depth as u8; 256]));
    let n_frames = if depth == 0 { compare() } else { aligned(depth - 1) };
    n_frames + usize::from(std::hint::black_box(&wide).0[0]) - depth
}

extern "C" fn compare_stacks(_: *const c_void, _: *const c_void) -> c_int {
    assert!(compare() > 3);
    0
}

extern "C" fn handle(_: c_int) {
    assert!(recurse(3) > 6);
}

#[test]
fn a_stack_is_what_libgcc_says_it_is() {
    let here = compare();
    assert!(here > 3, "{here}");
    // How many there are is the compiler's choice.
    assert!(recurse(100) > here && aligned(10) > here);
    std::thread::spawn(|| assert!(recurse(10) > 12)).join().unwrap();
}

#[test]
fn a_stack_goes_through_libc_and_through_a_signal() {
    let mut numbers = [3, 1, 2];
    unsafe { qsort(numbers.as_mut_ptr().cast(), 3, 4, compare_stacks) };
    const SIGUSR2: c_int = 12;
    unsafe {
        signal(SIGUSR2, handle);
        raise(SIGUSR2);
    }
}

thread_local! {
    static MEMO: RefCell<Memo> = const { RefCell::new(Memo::new()) };
    static RULES: RefCell<(Modules, HashMap<u64, Packed>)> = RefCell::new((Modules::new(), HashMap::new()));
}

fn rule(address: u64) -> Packed {
    RULES.with_borrow_mut(|(modules, rules)| {
        if modules.find(address).is_none() {
            assert!(modules.look(&Maps::read().unwrap()));
        }
        *rules.entry(address).or_insert_with(|| Packed::new(unsafe { modules.find(address).unwrap().rule(address) }))
    })
}

/// Compares the remembered stack with a fresh one; how many of its frames are those of the last time.
#[inline(never)]
fn compare_memo(own: &std::ops::Range<u64>) -> usize {
    let (pc, sp, bp): (u64, u64, u64);
    unsafe { asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) pc, out(reg) sp, out(reg) bp) };
    let top = Registers { pc, sp, bp, at: At::Interruption };
    let fresh = || {
        let mut memo = Memo::new();
        assert!(memo.refresh(top, own, rule));
        memo.frames().iter().map(|frame| frame.code_address()).collect::<Vec<_>>()
    };
    let fresh = fresh();
    MEMO.with_borrow_mut(|memo| {
        assert!(memo.refresh(top, own, rule));
        let remembered: Vec<u64> = memo.frames().iter().map(|frame| frame.code_address()).collect();
        assert_eq!(remembered, fresh);
        memo.n_unchanged()
    })
}

/// Calls this way and that, as the random numbers say.
fn wander(random: &mut u64, depth: usize, own: &std::ops::Range<u64>, n_unchanged: &mut usize) {
    for _ in 0..3 {
        *random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        match (*random >> 40) % 16 {
            0 | 1 if depth < 40 => left(random, depth + 1, own, n_unchanged),
            2 | 3 if depth < 40 => right(random, depth + 1, own, n_unchanged),
            4 if depth < 40 => wide(random, depth + 1, own, n_unchanged),
            5 => return,
            _ => *n_unchanged += compare_memo(own),
        }
    }
}

#[inline(never)]
fn left(random: &mut u64, depth: usize, own: &std::ops::Range<u64>, n_unchanged: &mut usize) {
    wander(random, depth, own, n_unchanged);
    std::hint::black_box(depth);
}

/// The same frame as `left`, at the same places.
#[inline(never)]
fn right(random: &mut u64, depth: usize, own: &std::ops::Range<u64>, n_unchanged: &mut usize) {
    wander(random, depth, own, n_unchanged);
    std::hint::black_box(depth + 1);
}

#[inline(never)]
fn wide(random: &mut u64, depth: usize, own: &std::ops::Range<u64>, n_unchanged: &mut usize) {
    #[repr(align(64))]
    struct Wide([u8; 64]);
    let wide = std::hint::black_box(Wide([depth as u8; 64]));
    wander(random, depth, own, n_unchanged);
    std::hint::black_box(&wide.0);
}

#[test]
fn what_is_remembered_is_what_a_fresh_walk_finds() {
    let run = || {
        let sp: u64;
        unsafe { asm!("mov {}, rsp", out(reg) sp) };
        let maps = super::super::maps::Maps::read().unwrap();
        let own =
            maps.lines().find(|line| (line.start..line.end).contains(&sp)).map(|line| line.start..line.end).unwrap();
        let (mut random, mut n_unchanged) = (42, 0);
        for _ in 0..3000 {
            wander(&mut random, 0, &own, &mut n_unchanged);
        }
        n_unchanged
    };
    assert!(std::thread::spawn(run).join().unwrap() > 10_000);
}
