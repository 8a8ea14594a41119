//! The command `incident-sync`.

use std::process::ExitCode;

fn main() -> ExitCode {
    set_up_allocator();
    incident_sync::commands::main()
}

/// Memory of unusually large pages returns to the system immediately. glibc would raise this limit to 32 MiB.
#[cfg(target_env = "gnu")]
const MAPPED_ALONE_BYTES: libc::c_int = 4 << 20;

/// glibc keeps a heap for each thread, which pages of a megabyte fragment: one heap needs a fifth less memory and
/// measured no slower.
#[cfg(target_env = "gnu")]
#[expect(
    unsafe_code,
    reason = "mallopt has no safe form; it is called before any other thread exists"
)]
fn set_up_allocator() {
    // SAFETY: this is the only thread, and the calls change nothing but the allocator's own settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_ALONE_BYTES);
    }
}

#[cfg(not(target_env = "gnu"))]
fn set_up_allocator() {}
