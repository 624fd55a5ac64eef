#![no_std]
#[cfg(all(panic = "abort", not(test)))]
#[panic_handler]
fn on_panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
#[cfg(all(panic = "unwind", not(test)))]
extern crate std as _std;
