//! Advice to the operating system about large allocations.

/// Give advice about the whole pages of a vector's capacity.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn advise(vector: &Vec<f64>, page: usize, advice: libc::c_int) {
    let start = vector.as_ptr() as usize;
    let end = (start + vector.capacity() * size_of::<f64>()) / page * page;
    let start = start.next_multiple_of(page);
    if start < end {
        // SAFETY: the range lies within the allocation of the vector, and neither advice of this module changes what is in
        // it. That it may be refused does no harm.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, advice) };
    }
}

/// Ask for pages of 2 MiB where a vector is long enough to have some.
///
/// The trajectory of a large model goes through tens of megabytes in turn, more than the translation buffers of a core hold as
/// pages of 4 KiB. Not for stored draws: they are written once, and fresh memory costs more that way on virtual machines.
#[cfg(target_os = "linux")]
pub fn ask_for_huge_pages(vector: &Vec<f64>) {
    advise(vector, 2 << 20, libc::MADV_HUGEPAGE);
}

/// Take all memory of a vector's capacity from the system at once, which is going to be written soon.
///
/// A page at a time, with an exception of the processor for each, costs a tenth of the time of a leapfrog step at 1,000
/// parameters. Systems that do not know this advice, or have larger pages, refuse it.
#[cfg(target_os = "linux")]
pub fn take_pages(vector: &Vec<f64>) {
    advise(vector, 4096, libc::MADV_POPULATE_WRITE);
}

/// Not on this system.
#[cfg(not(target_os = "linux"))]
pub fn ask_for_huge_pages(_vector: &Vec<f64>) {}

/// Not on this system.
#[cfg(not(target_os = "linux"))]
pub fn take_pages(_vector: &Vec<f64>) {}
