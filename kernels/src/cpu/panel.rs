//! Decoded copies of some rows of a packed weight, which stay in a thread's cache while many inputs meet them.

use std::cell::RefCell;

use super::{
    simd::Simd,
    weight::{Input, Weight},
};

thread_local! {
    /// Grows to the largest panel of the thread's weights: a few of their rows.
    static PANEL: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Calls `run` with room for `elements` elements, which hold anything.
#[inline(always)]
pub(super) fn with<T: Input>(elements: usize, run: impl FnOnce(&mut [T])) {
    PANEL.with_borrow_mut(|panel| {
        let words = (elements * size_of::<T>()).div_ceil(size_of::<u64>());
        if panel.len() < words {
            panel.resize(words, 0);
        }
        run(&mut bytemuck::cast_slice_mut(&mut panel[..words])[..elements]);
    });
}

/// N rows of `k` elements, decoded.
#[inline(always)]
pub(super) fn decode<'p, S: Simd, W: Weight, const N: usize>(
    s: S,
    rows: [W::Row<'_>; N],
    k: usize,
    panel: &'p mut [W::Input],
) -> [&'p [W::Input]; N] {
    for (row, out) in rows.into_iter().zip(panel.chunks_exact_mut(k.max(1))) {
        decode_row::<S, W>(s, row, out);
    }
    std::array::from_fn(|n| &panel[n * k..(n + 1) * k])
}

/// A row, as what meets the inputs.
#[inline(always)]
pub(super) fn decode_row<S: Simd, W: Weight>(s: S, row: W::Row<'_>, out: &mut [W::Input]) {
    let step = W::Input::STEP;
    for at in (0..out.len()).step_by(step) {
        let n = step.min(out.len() - at);
        // SAFETY: the row has as many elements as `out`.
        unsafe { W::Input::store_operand(s, out.as_mut_ptr().add(at), n, W::load_weight(s, row, at, n)) };
    }
}
