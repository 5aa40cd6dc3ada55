//! What Apple's linker would find in an SDK, as far as Quarrel uses it.
//!
//! The C library's symbols are those of the list that zig brings with it. Of the others
//! only what is named here is there, so that a symbol nobody thought of is not found.

use std::path::{Path, PathBuf};

use crate::error::{Result, at};

/// A library or framework: its stub's place in the SDK, its name for the loader, and symbols of it.
pub struct Library {
    place: &'static str,
    /// Where macOS has it.
    pub name: &'static str,
    symbols: &'static [&'static str],
}

/// What the backend links beside the C library. Classes of Objective-C are asked for by name when the
/// program runs.
pub const OF_BACKEND: [Library; 7] = [
    Library {
        place: "System/Library/Frameworks/CoreGraphics.framework/CoreGraphics.tbd",
        name: "/System/Library/Frameworks/CoreGraphics.framework/Versions/A/CoreGraphics",
        symbols: &[],
    },
    Library {
        place: "System/Library/Frameworks/Foundation.framework/Foundation.tbd",
        name: "/System/Library/Frameworks/Foundation.framework/Versions/C/Foundation",
        symbols: &[],
    },
    Library {
        place: METAL,
        name: "/System/Library/Frameworks/Metal.framework/Versions/A/Metal",
        symbols: &[DEVICE],
    },
    Library {
        place: "System/Library/Frameworks/MetalPerformanceShaders.framework/MetalPerformanceShaders.tbd",
        name: "/System/Library/Frameworks/MetalPerformanceShaders.framework/Versions/A/MetalPerformanceShaders",
        symbols: &["MPSSupportsMTLDevice"],
    },
    Library {
        place: "System/Library/Frameworks/MetalPerformanceShadersGraph.framework/MetalPerformanceShadersGraph.tbd",
        name: "/System/Library/Frameworks/MetalPerformanceShadersGraph.framework/Versions/A/MetalPerformanceShadersGraph",
        symbols: &[],
    },
    // Rust's standard library links it and calls nothing of it.
    Library { place: "usr/lib/libiconv.tbd", name: "/usr/lib/libiconv.2.dylib", symbols: &[] },
    Library {
        place: "usr/lib/libobjc.tbd",
        name: "/usr/lib/libobjc.A.dylib",
        symbols: &[
            "class_getInstanceMethod",
            "class_getName",
            "class_isMetaClass",
            "method_getName",
            "method_getTypeEncoding",
            "objc_alloc",
            "objc_autoreleasePoolPop",
            "objc_autoreleasePoolPush",
            "objc_getClass",
            "objc_msgSend",
            "objc_release",
            "objc_retain",
            "objc_retainAutoreleasedReturnValue",
            "object_getClass",
            "sel_getName",
            "sel_registerName",
        ],
    },
];

/// What the rest of `quarrel` links: certificates are checked by macOS.
pub const OF_REST: [Library; 2] = [
    Library {
        place: "System/Library/Frameworks/CoreFoundation.framework/CoreFoundation.tbd",
        name: "/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation",
        symbols: &[
            "CFArrayCreate",
            "CFDataCreate",
            "CFDateCreate",
            "CFErrorCopyDescription",
            "CFErrorGetCode",
            "CFRelease",
            "CFStringCreateWithBytes",
            "CFStringGetBytes",
            "CFStringGetCStringPtr",
            "CFStringGetLength",
            "kCFAbsoluteTimeIntervalSince1970",
            "kCFAllocatorDefault",
            "kCFTypeArrayCallBacks",
        ],
    },
    Library {
        place: "System/Library/Frameworks/Security.framework/Security.tbd",
        name: "/System/Library/Frameworks/Security.framework/Versions/A/Security",
        symbols: &[
            "SecCertificateCopySubjectSummary",
            "SecCertificateCreateWithData",
            "SecCopyErrorMessageString",
            "SecPolicyCreateSSL",
            "SecTrustCreateWithCertificates",
            "SecTrustEvaluateWithError",
            "SecTrustSetAnchorCertificates",
            "SecTrustSetAnchorCertificatesOnly",
            "SecTrustSetOCSPResponse",
            "SecTrustSetVerifyDate",
        ],
    },
];

const METAL: &str = "System/Library/Frameworks/Metal.framework/Metal.tbd";

/// The one function of the Metal framework that is called; all else are methods.
pub const DEVICE: &str = "MTLCreateSystemDefaultDevice";

/// The C library's name for the loader.
pub const C_LIBRARY_NAME: &str = "/usr/lib/libSystem.B.dylib";

/// Where frameworks are.
pub const FRAMEWORKS: &str = "System/Library/Frameworks";

/// Names under which programs link the C library.
const C_LIBRARY: [&str; 3] = ["usr/lib/libSystem.tbd", "usr/lib/libc.tbd", "usr/lib/libm.tbd"];

/// Writes the SDK to `dir`, the C library from zig's list; without `hidden`, as if it did not exist.
///
/// # Errors
/// A file that cannot be written.
pub fn write(dir: &Path, c_library: &Path, hidden: Option<&str>) -> Result<()> {
    // The linker knows the processor under its plain name alone.
    let text = std::fs::read_to_string(c_library).map_err(at(c_library))?;
    let text = text.replace("arm64e.x1-", "arm64-").replace("arm64e-", "arm64-");
    for place in C_LIBRARY {
        put(dir.join(place), &text)?;
    }
    for library in OF_BACKEND.iter().chain(&OF_REST) {
        let symbols = library.symbols.iter().filter(|symbol| Some(**symbol) != hidden);
        put(dir.join(library.place), &stub(library.name, symbols))?;
    }
    Ok(())
}

/// A stub of a library in the format of Apple's linker, which puts `_` before names.
fn stub<'a>(name: &str, symbols: impl Iterator<Item = &'a &'a str>) -> String {
    let symbols: Vec<String> = symbols.map(|symbol| format!("_{symbol}")).collect();
    let exports = match &symbols[..] {
        [] => String::new(),
        _ => format!("exports:\n  - targets: [ arm64-macos ]\n    symbols: [ {} ]\n", symbols.join(", ")),
    };
    format!("--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\ninstall-name: '{name}'\n{exports}...\n")
}

fn put(path: PathBuf, text: &str) -> Result<()> {
    let dir = path.parent().expect("places are in folders");
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    std::fs::write(&path, text).map_err(at(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_name_their_symbols_as_the_linker_does() {
        let text = stub("/usr/lib/libx.dylib", ["a", "b"].iter());
        assert!(text.contains("install-name: '/usr/lib/libx.dylib'"), "{text}");
        assert!(text.contains("symbols: [ _a, _b ]"), "{text}");
        assert!(!stub("x", [].iter()).contains("exports"));
    }
}
