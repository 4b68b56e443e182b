//! Memory that this process shares with the kernel, and windows on it that cannot be out of bounds.
#![allow(unsafe_code)]

use std::{
    io,
    ops::Deref,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64},
    },
};

use super::sys;

/// One `mmap`, unmapped when the last owner goes.
///
/// Invariants: `base..base + length` is readable and writable until [`Drop`]; nothing here makes a reference into it, so the
/// kernel may write to it at any time. Who may look at which bytes is for [`Window`] (atomics, anybody) and for
/// [`super::umem::Frame`] (one owner at a time) to say.
#[derive(Debug)]
pub(crate) struct Region {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a region is an address and a length; neither is tied to a thread, and `&Region` gives no access to the bytes.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Zeroed memory of our own. `huge` asks for 2 MiB pages, and fails where none are reserved.
    pub(crate) fn anonymous(length: usize, huge: bool) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | if huge { libc::MAP_HUGETLB } else { 0 };
        // A mapping of huge pages is a whole number of them, for `munmap` too.
        let length = if huge { length.next_multiple_of(2 << 20) } else { length };
        let region = Self { base: sys::map(length, flags, None, 0)?, length };
        // A kernel without them has the memory in small pages, and a program in it more to look up: not worth an error.
        let _ = sys::prefer_huge_pages(region.base, length);
        Ok(region)
    }

    /// One ring of an `AF_XDP` socket; `page_offset` says which (`XDP_PGOFF_RX_RING` and its like).
    pub(crate) fn ring(socket: BorrowedFd<'_>, length: usize, page_offset: u64) -> io::Result<Self> {
        Ok(Self { base: sys::map(length, libc::MAP_SHARED | libc::MAP_POPULATE, Some(socket), page_offset)?, length })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// `count` words from `offset` bytes on, or `None` where they do not fit or are not aligned.
    pub(crate) fn window<T: Shared>(self: &Arc<Self>, offset: usize, count: usize) -> Option<Window<T>> {
        let end = count.checked_mul(size_of::<T>())?.checked_add(offset)?;
        // The base is page-aligned, so the offset's alignment is the address's.
        if end > self.length || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: `offset <= end <= length`, so the sum stays within one mapping.
        let first = unsafe { self.base.add(offset) }.cast();
        Some(Window { first, count, _region: Arc::clone(self) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `length` are those of the `mmap` in the constructor, and no window or frame outlives its `Arc`.
        unsafe { sys::unmap(self.base, self.length) };
    }
}

/// What may lie in memory that somebody else writes to while we look.
///
/// # Safety
/// Every bit pattern is a value, and every access through `&Self` is atomic.
pub(crate) unsafe trait Shared: Sync {}

// SAFETY: atomics of plain integers.
unsafe impl Shared for AtomicU32 {}
// SAFETY: atomics of plain integers.
unsafe impl Shared for AtomicU64 {}

/// A slice of atomics inside a region that it keeps mapped.
#[derive(Debug)]
pub(crate) struct Window<T> {
    first: NonNull<T>,
    count: usize,
    _region: Arc<Region>,
}

// SAFETY: a window is an owner of its region and lends only `&[T]`, and `T` is `Sync`.
unsafe impl<T: Shared> Send for Window<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Window<T> {}

impl<T: Shared> Deref for Window<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `Region::window` checked bounds and alignment; the region is kept alive by the `Arc`; `T: Shared` allows any
        // bit pattern and concurrent writers.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}
