//! Which parts of large device allocations are taken. Plain arithmetic: no driver here.

use super::CudaPtr;

/// Tensors start at multiples of this: enough for every vector and bulk copy.
pub(super) const ALIGNMENT: usize = 256;

/// Large allocations, and what of them is free.
#[derive(Default)]
pub(super) struct Arena {
    chunks: Vec<Chunk>,
}

/// One allocation of the driver's.
struct Chunk {
    base: CudaPtr,
    bytes: usize,
    /// Free ranges as (offset, bytes), ascending, never touching.
    free: Vec<(usize, usize)>,
}

impl Arena {
    /// Bytes that a request really takes.
    pub fn rounded(bytes: usize) -> Option<usize> {
        bytes.max(1).checked_next_multiple_of(ALIGNMENT)
    }

    /// Adds an allocation, which leaves the arena when the last of what was taken from it is given back.
    pub fn add(&mut self, base: CudaPtr, bytes: usize) {
        self.chunks.push(Chunk { base, bytes, free: vec![(0, bytes)] });
    }

    /// Bytes that are taken.
    pub fn taken(&self) -> usize {
        let taken = |chunk: &Chunk| chunk.bytes - chunk.free.iter().map(|(_, bytes)| bytes).sum::<usize>();
        self.chunks.iter().map(taken).sum()
    }

    /// Takes the first free range that is large enough. `bytes` is [`rounded`](Arena::rounded).
    pub fn take(&mut self, bytes: usize) -> Option<CudaPtr> {
        self.chunks.iter_mut().find_map(|chunk| chunk.take(bytes))
    }

    /// Gives a range back. Returns an allocation that the driver can have back, if this was the last of it.
    pub fn give_back(&mut self, address: CudaPtr, bytes: usize) -> Option<CudaPtr> {
        let holds = |chunk: &Chunk| (chunk.base.0..chunk.base.0 + chunk.bytes as u64).contains(&address.0);
        let index = self.chunks.iter().position(holds)?;
        let chunk = &mut self.chunks[index];
        chunk.give_back((address.0 - chunk.base.0) as usize, bytes);
        let empty = chunk.free == [(0, chunk.bytes)];
        empty.then(|| self.chunks.swap_remove(index).base)
    }

    /// All allocations, which leave the arena.
    pub fn drain(&mut self) -> impl Iterator<Item = CudaPtr> {
        self.chunks.drain(..).map(|chunk| chunk.base)
    }
}

impl Chunk {
    fn take(&mut self, bytes: usize) -> Option<CudaPtr> {
        let index = self.free.iter().position(|&(_, free)| free >= bytes)?;
        let (offset, free) = self.free[index];
        if free == bytes {
            self.free.remove(index);
        } else {
            self.free[index] = (offset + bytes, free - bytes);
        }
        Some(self.base.offset(offset))
    }

    fn give_back(&mut self, offset: usize, bytes: usize) {
        let index = self.free.partition_point(|&(start, _)| start < offset);
        self.free.insert(index, (offset, bytes));
        self.join(index);
        if index > 0 {
            self.join(index - 1);
        }
    }

    /// Joins a free range with the next one if they touch.
    fn join(&mut self, index: usize) {
        let (offset, bytes) = self.free[index];
        if let Some(&(next, more)) = self.free.get(index + 1)
            && next == offset + bytes
        {
            self.free[index].1 += more;
            self.free.remove(index + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: CudaPtr = CudaPtr(0x1_0000);

    #[test]
    fn ranges_are_taken_in_order_and_join_when_given_back() {
        let mut arena = Arena::default();
        arena.add(BASE, 1024);
        let taken: Vec<CudaPtr> = (0..4).map(|_| arena.take(256).unwrap()).collect();
        assert_eq!(taken, [0, 256, 512, 768].map(|at| BASE.offset(at)));
        assert_eq!((arena.take(256), arena.taken()), (None, 1024));
        for at in [1, 3, 0] {
            assert_eq!(arena.give_back(taken[at], 256), None);
        }
        assert_eq!((arena.take(768), arena.taken()), (None, 256), "the third is still taken");
        assert_eq!(arena.take(512), Some(BASE), "the first two are one range again");
    }

    #[test]
    fn what_is_free_again_goes_back_to_the_driver() {
        let mut arena = Arena::default();
        arena.add(BASE, 512);
        let (first, second) = (arena.take(256).unwrap(), arena.take(256).unwrap());
        assert_eq!(arena.give_back(second, 256), None);
        assert_eq!(arena.give_back(first, 256), Some(BASE));
        assert_eq!((arena.take(256), arena.drain().count()), (None, 0));
    }

    #[test]
    fn sizes_are_rounded_up_without_overflow() {
        assert_eq!([0, 1, 256, 257].map(Arena::rounded), [256, 256, 256, 512].map(Some));
        assert_eq!(Arena::rounded(usize::MAX), None);
    }
}
