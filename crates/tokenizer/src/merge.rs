//! Repeatedly joining the best pair of neighbours, as BPE and SentencePiece do.
//!
//! Symbols form a linked list and candidate pairs a heap, so that `n` symbols
//! take O(n log n), whatever the text.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A stretch of text that has become one symbol.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbol {
    /// The symbol, or [`NONE`] when this text is no known symbol.
    pub id: u32,
    /// First byte, from the start of the text.
    pub start: usize,
    /// Length in bytes; 0 once merged into the symbol to the left.
    pub len: usize,
    prev: usize,
    next: usize,
}

/// The id of text that is no known symbol.
pub(crate) const NONE: u32 = u32::MAX;
const END: usize = usize::MAX;

/// What two neighbours become, and how eagerly.
pub(crate) struct Join {
    /// Lower joins first; of equals, the one further left.
    pub priority: u32,
    /// The symbol they become.
    pub id: u32,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    priority: u32,
    left: usize,
    right: usize,
    /// Length of both in bytes: tells whether either has changed since.
    len: usize,
    id: u32,
}

/// Working memory, kept between calls so that each word need not allocate.
#[derive(Default)]
pub(crate) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Forgets the symbols of the text before.
    pub fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Appends the next `len` bytes of the text as a symbol.
    pub fn push(&mut self, id: u32, len: usize) {
        let at = self.symbols.len();
        let start = self.symbols.last().map_or(0, |s| s.start + s.len);
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        self.symbols.push(Symbol { id, start, len, prev: at.wrapping_sub(1), next: END });
    }

    /// Joins neighbours until `join` knows no pair; gives what remains.
    pub fn run(&mut self, join: impl Fn(&Symbol, &Symbol) -> Option<Join>) -> impl Iterator<Item = &Symbol> {
        for right in 1..self.symbols.len() {
            self.consider(right - 1, right, &join);
        }
        while let Some(Reverse(c)) = self.heap.pop() {
            let (left, right) = (self.symbols[c.left], self.symbols[c.right]);
            if left.len == 0 || right.len == 0 || left.len + right.len != c.len {
                continue;
            }
            self.symbols[c.right].len = 0;
            let merged = &mut self.symbols[c.left];
            (merged.id, merged.len, merged.next) = (c.id, c.len, right.next);
            if right.next != END {
                self.symbols[right.next].prev = c.left;
                self.consider(c.left, right.next, &join);
            }
            if left.prev != END {
                self.consider(left.prev, c.left, &join);
            }
        }
        self.symbols.iter().filter(|s| s.len > 0)
    }

    fn consider(&mut self, left: usize, right: usize, join: &impl Fn(&Symbol, &Symbol) -> Option<Join>) {
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        if let Some(Join { priority, id }) = join(a, b) {
            self.heap.push(Reverse(Candidate { priority, left, right, len: a.len + b.len, id }));
        }
    }
}
