//! Links libpq, through which nodes reach each other.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // By its file name, so that the run-time package suffices to build: neither libpq's headers nor its `.so` link are
    // needed.
    println!("cargo:rustc-link-lib=dylib:+verbatim=libpq.so.5");
}
