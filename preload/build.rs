//! Link options of the shim.

fn main() {
    // Its hooks may be called until the last instruction of the program: never unload it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // Its constructor runs before those of all other libraries, which see the environment as it is without us.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,initfirst");
    // The addresses of its hooks that it hands out are its own, also where another function of the name comes first.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions");
    println!("cargo:rerun-if-changed=build.rs");
}
