//! Advice to the operating system about large allocations.

/// Ask for pages of 2 MiB where a vector is long enough to have some.
///
/// The trajectory of a large model goes through tens of megabytes in turn, more than the translation buffers of a core hold as
/// pages of 4 KiB. Not for stored draws: they are written once, and fresh memory costs more that way on virtual machines.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn ask_for_huge_pages(vector: &Vec<f64>) {
    const HUGE_PAGE: usize = 2 << 20;
    let start = vector.as_ptr() as usize;
    let end = (start + vector.capacity() * size_of::<f64>()) / HUGE_PAGE * HUGE_PAGE;
    let start = start.next_multiple_of(HUGE_PAGE);
    if start < end {
        // SAFETY: the range lies within the allocation of the vector, and the advice does not change what is in it. That it
        // may be refused does no harm.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

/// Not on this system.
#[cfg(not(target_os = "linux"))]
pub fn ask_for_huge_pages(_vector: &Vec<f64>) {}

/// Take all memory of a vector's capacity from the system at once, which is going to be written soon.
///
/// A page at a time, with an exception of the processor for each, costs a tenth of the time of a leapfrog step at 1,000
/// parameters.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
pub fn take_pages(vector: &Vec<f64>) {
    const PAGE: usize = 4096;
    let start = vector.as_ptr() as usize;
    let end = (start + vector.capacity() * size_of::<f64>()) / PAGE * PAGE;
    let start = start.next_multiple_of(PAGE);
    if start < end {
        // SAFETY: the range lies within the allocation of the vector, and the advice does not change what is in it. Systems
        // that do not know it, or have larger pages, refuse it, which does no harm.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_POPULATE_WRITE) };
    }
}

/// Not on this system.
#[cfg(not(target_os = "linux"))]
pub fn take_pages(_vector: &Vec<f64>) {}
