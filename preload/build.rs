//! Link options of the shim.

fn main() {
    // Its hooks may be called until the last instruction of the program: never unload it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
