//! Rows gathered by expert, as `items.h` has them.

/// Rows gathered by their experts (`experts.rs`), of which a threadgroup multiplies an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Items {
    pub n_experts: u32,
    /// Experts a row.
    pub n_used: u32,
    /// Rows an item, at most.
    pub each: u32,
}

impl Items {
    /// How many there are of so many rows, at most: one an expert, and what fills others.
    pub fn most(self, rows: usize) -> usize {
        let slots = rows * self.n_used as usize;
        let experts = slots.min(self.n_experts as usize);
        experts + (slots - experts) / self.each as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most items that rows can make, found by trying: how many slots each expert has.
    fn tried(slots: usize, experts: usize, each: usize, most: usize) -> usize {
        let Some(others) = experts.checked_sub(1) else { return 0 };
        // An expert has each row once at most.
        let own = 0..=slots.min(most);
        let left = |own: usize| slots - own <= others * most;
        own.filter(|&own| left(own))
            .map(|own| own.div_ceil(each) + tried(slots - own, others, each, most))
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn items_are_never_more_than_there_is_room_for() {
        for (n_experts, n_used, each) in [(5, 2, 1), (5, 2, 3), (4, 3, 2), (3, 1, 4)] {
            let items = Items { n_experts, n_used, each };
            for rows in 1..6 {
                let tried = tried(rows * n_used as usize, n_experts as usize, each as usize, rows);
                assert!(items.most(rows) >= tried, "{items:?} of {rows} rows: {tried}");
                // Nor is there much more room.
                assert!(items.most(rows) <= tried + n_experts as usize, "{items:?} of {rows} rows: {tried}");
            }
        }
    }
}
