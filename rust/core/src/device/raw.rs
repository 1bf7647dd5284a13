//! Where an array lies, for whoever shares it with other libraries (DLPack, the CUDA array interface).

/// What kind of memory an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// That of the process.
    Host,
    /// That of the CUDA device with this number.
    Cuda(usize),
    /// An OpenCL buffer: the address is a `cl_mem`.
    OpenCl,
}

/// An array of a device as other libraries know arrays: row by row, `stride` numbers from one row to the next.
///
/// The address is good as long as the device lives. Whoever uses it makes sure that nobody writes what another one reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawBuffer {
    /// Kind of the memory.
    pub memory: Memory,
    /// Address of the first number.
    pub address: usize,
    /// Number of rows.
    pub rows: usize,
    /// Numbers in a row.
    pub dim: usize,
    /// From the beginning of a row to that of the next one, in numbers.
    pub stride: usize,
    /// Bytes of a number: 8, or 4 in single precision.
    pub bytes: usize,
    /// The stream or queue on which the device works, 0 if there is none. What the device was told before has to be waited
    /// for on it.
    pub stream: usize,
}
