//! Logical cache pages: reference-counted handles, block tables, and the prefix
//! cache that finds a page again by what it holds.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

use model::{CacheGroup, NO_PAGE};

/// What a full page holds: its tokens and everything before them, and in a
/// deterministic cache which of them were computed as a prompt's. Two 64-bit
/// hashes with keys drawn at start-up, so that nobody can construct a collision.
type PageHash = u128;

/// What a sequence's pages hold, or would.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Content<'a> {
    /// From the start of the sequence.
    pub tokens: &'a [u32],
    /// How many of them are the prompt; the rest is computed as generated.
    pub n_prompt: usize,
    /// Pages are found again only with the salt they were named with.
    pub salt: u64,
}

/// One group's pages.
#[derive(Debug)]
struct Pool {
    references: Vec<u32>,
    free: Vec<u32>,
    hashes: Vec<Option<PageHash>>,
    by_hash: HashMap<PageHash, u32>,
    /// Unreferenced pages that still hold something, oldest first.
    idle: BTreeMap<u64, u32>,
    idle_since: Vec<u64>,
    clock: u64,
}

impl Pool {
    fn new(n_pages: u32) -> Self {
        Self {
            references: vec![0; n_pages as usize],
            free: (0..n_pages).rev().collect(),
            hashes: vec![None; n_pages as usize],
            by_hash: HashMap::new(),
            idle: BTreeMap::new(),
            idle_since: vec![0; n_pages as usize],
            clock: 0,
        }
    }

    fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    fn take(&mut self) -> Option<u32> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.idle.pop_first()?;
                if let Some(hash) = self.hashes[id as usize].take() {
                    self.by_hash.remove(&hash);
                }
                id
            }
        };
        self.references[id as usize] = 1;
        Some(id)
    }

    fn find(&mut self, hash: PageHash) -> Option<u32> {
        let id = *self.by_hash.get(&hash)?;
        if self.references[id as usize] == 0 {
            self.idle.remove(&self.idle_since[id as usize]);
        }
        self.references[id as usize] += 1;
        Some(id)
    }

    fn release(&mut self, id: u32) {
        let count = &mut self.references[id as usize];
        *count -= 1;
        if *count > 0 {
            return;
        }
        if self.hashes[id as usize].is_some() {
            self.clock += 1;
            self.idle_since[id as usize] = self.clock;
            self.idle.insert(self.clock, id);
        } else {
            self.free.push(id);
        }
    }

    /// Names a page's content; the first page with a content keeps the name.
    fn name(&mut self, id: u32, hash: PageHash) {
        if self.hashes[id as usize].is_none() && !self.by_hash.contains_key(&hash) {
            self.hashes[id as usize] = Some(hash);
            self.by_hash.insert(hash, id);
        }
    }
}

/// A counted handle on one page; dropping the last one gives the page back.
#[derive(Debug)]
struct Page {
    pool: Rc<RefCell<Pool>>,
    id: u32,
}

impl Drop for Page {
    fn drop(&mut self) {
        self.pool.borrow_mut().release(self.id);
    }
}

/// The pages of one sequence, a block table for each group.
#[derive(Debug, Default)]
pub(crate) struct SequencePages {
    /// Per group, logical page index to page; `None` once a window has passed it.
    tables: Vec<Vec<Option<Page>>>,
    /// Hashes of the full pages so far.
    hashes: Vec<PageHash>,
}

impl SequencePages {
    /// Logical pages in `group`, passed ones included.
    pub fn len(&self, group: usize) -> usize {
        self.tables.get(group).map_or(0, Vec::len)
    }

    /// Pages of `group` that would come free if this sequence let go.
    pub fn freeable(&self, group: usize) -> usize {
        let held = self.tables.get(group).into_iter().flatten().flatten();
        held.filter(|page| page.pool.borrow().references[page.id as usize] == 1).count()
    }

    /// The physical page ids of `group`, [`NO_PAGE`] where the window has passed.
    pub fn table(&self, group: usize) -> impl Iterator<Item = u32> {
        self.tables.get(group).into_iter().flatten().map(|p| p.as_ref().map_or(NO_PAGE, |p| p.id))
    }
}

/// Hands out pages of every group and remembers what full pages hold.
#[derive(Debug)]
pub(crate) struct BlockManager {
    groups: Vec<(CacheGroup, Rc<RefCell<Pool>>)>,
    page_size: usize,
    /// Whether a page is found again only by who would have written the same bits:
    /// the roles of a page's rows are part of its name.
    deterministic: bool,
    keys: [RandomState; 2],
}

impl BlockManager {
    /// A manager for a runner's groups, which share one page size.
    pub fn new(groups: &[CacheGroup], deterministic: bool) -> Self {
        let page_size = groups.first().map_or(1, |g| g.page_size as usize);
        assert!(
            groups.iter().all(|g| g.page_size as usize == page_size),
            "the groups of a model share one page size, or prefixes could not be found across them"
        );
        let pool = |g: &CacheGroup| (*g, Rc::new(RefCell::new(Pool::new(g.n_pages))));
        Self {
            groups: groups.iter().map(pool).collect(),
            page_size,
            deterministic,
            keys: [RandomState::new(), RandomState::new()],
        }
    }

    /// Tokens a page.
    pub fn page_size(&self) -> usize {
        self.page_size
    }

    /// Number of groups.
    pub fn n_groups(&self) -> usize {
        self.groups.len()
    }

    /// The groups' shapes.
    pub fn group(&self, group: usize) -> &CacheGroup {
        &self.groups[group].0
    }

    /// Pages of each group that could be handed out now.
    pub fn available(&self) -> Vec<usize> {
        self.groups.iter().map(|(_, pool)| pool.borrow().available()).collect()
    }

    /// Pages that sequences hold, in all groups.
    pub fn held(&self) -> usize {
        self.groups.iter().map(|(group, pool)| group.n_pages as usize - pool.borrow().available()).sum()
    }

    /// The longest run of full pages that every group still holds for the start
    /// of `content`, leaving at least one token to compute. Returns the number of tokens found.
    pub fn match_prefix(&self, content: Content<'_>) -> (SequencePages, usize) {
        let mut hashes = Vec::new();
        for i in 0..content.tokens.len().saturating_sub(1) / self.page_size {
            hashes.push(self.hash(hashes.last(), content, i));
        }
        let n = (0..=hashes.len()).rev().find(|&n| self.all_hold(&hashes[..n])).unwrap_or(0);
        hashes.truncate(n);
        let tables = self.groups.iter().map(|group| self.found_table(group, &hashes)).collect();
        (SequencePages { tables, hashes }, n * self.page_size)
    }

    fn all_hold(&self, hashes: &[PageHash]) -> bool {
        self.groups.iter().all(|(group, pool)| {
            let first = self.first_needed(group, hashes.len() * self.page_size);
            let pool = pool.borrow();
            hashes[first..].iter().all(|hash| pool.by_hash.contains_key(hash))
        })
    }

    fn found_table(
        &self,
        (group, pool): &(CacheGroup, Rc<RefCell<Pool>>),
        hashes: &[PageHash],
    ) -> Vec<Option<Page>> {
        let first = self.first_needed(group, hashes.len() * self.page_size);
        let find = |(i, &hash): (usize, &PageHash)| {
            if i < first {
                return None;
            }
            let id = pool.borrow_mut().find(hash).expect("all_hold has just seen every page from `first` on");
            Some(Page { pool: pool.clone(), id })
        };
        hashes.iter().enumerate().map(find).collect()
    }

    /// The first logical page that a query at position `n_cached` or later can see.
    fn first_needed(&self, group: &CacheGroup, n_cached: usize) -> usize {
        let Some(window) = group.window else { return 0 };
        (n_cached + 1).saturating_sub(window as usize) / self.page_size
    }

    /// Pages of `group` still missing for a sequence to hold `n_tokens`.
    pub fn missing(&self, pages: &SequencePages, group: usize, n_tokens: usize) -> usize {
        n_tokens.div_ceil(self.page_size).saturating_sub(pages.len(group))
    }

    /// Gives the sequence room for `n_tokens`. Returns whether there were enough
    /// pages; if not, nothing has changed.
    pub fn grow(&self, pages: &mut SequencePages, n_tokens: usize) -> bool {
        pages.tables.resize_with(self.groups.len(), Vec::new);
        let missing: Vec<usize> = (0..self.groups.len()).map(|g| self.missing(pages, g, n_tokens)).collect();
        if self.available().iter().zip(&missing).any(|(have, need)| have < need) {
            return false;
        }
        for (((_, pool), table), need) in self.groups.iter().zip(&mut pages.tables).zip(missing) {
            for _ in 0..need {
                let id = pool.borrow_mut().take().expect("availability was checked above");
                table.push(Some(Page { pool: pool.clone(), id }));
            }
        }
        true
    }

    /// Records that the cache now holds the first `n_cached` tokens of `content`: names
    /// the pages that became full, and lets go of those a window has passed.
    pub fn commit(&self, pages: &mut SequencePages, content: Content<'_>, n_cached: usize) {
        for i in pages.hashes.len()..n_cached / self.page_size {
            let hash = self.hash(pages.hashes.last(), content, i);
            pages.hashes.push(hash);
            for table in &pages.tables {
                if let Some(Some(page)) = table.get(i) {
                    page.pool.borrow_mut().name(page.id, hash);
                }
            }
        }
        for ((group, _), table) in self.groups.iter().zip(&mut pages.tables) {
            let first = self.first_needed(group, n_cached).min(table.len());
            table[..first].iter_mut().for_each(|page| *page = None);
        }
    }

    /// The name of page `i` of `content`, the page before it being `parent`.
    fn hash(&self, parent: Option<&PageHash>, content: Content<'_>, i: usize) -> PageHash {
        let (start, end) = (i * self.page_size, (i + 1) * self.page_size);
        let n_prompt = if self.deterministic { content.n_prompt.clamp(start, end) } else { end };
        let page = (parent.copied().unwrap_or(content.salt.into()), &content.tokens[start..end], n_prompt);
        let half = |key: &RandomState| u128::from(key.hash_one(page));
        half(&self.keys[0]) << 64 | half(&self.keys[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(n_pages: u32, window: Option<u32>) -> CacheGroup {
        CacheGroup { n_pages, page_size: 4, window }
    }

    fn prompt(tokens: &[u32], salt: u64) -> Content<'_> {
        Content { tokens, n_prompt: tokens.len(), salt }
    }

    #[test]
    fn pages_come_back_and_prefixes_are_found_again() {
        let manager = BlockManager::new(&[group(4, None)], false);
        let tokens: Vec<u32> = (0..10).collect();
        let (mut pages, n_cached) = manager.match_prefix(prompt(&tokens, 0));
        assert_eq!(n_cached, 0);
        assert!(manager.grow(&mut pages, 10));
        assert_eq!(manager.available(), [1]);
        assert!(!manager.grow(&mut pages, 17), "4 pages hold 16 tokens");
        manager.commit(&mut pages, prompt(&tokens, 0), 10);
        let first: Vec<u32> = pages.table(0).collect();
        drop(pages);
        assert_eq!(manager.available(), [4]);

        let (pages, n_cached) = manager.match_prefix(prompt(&tokens, 0));
        assert_eq!(n_cached, 8);
        assert_eq!(pages.table(0).collect::<Vec<_>>(), first[..2]);
        let (_, whole_pages) = manager.match_prefix(prompt(&tokens[..8], 0));
        assert_eq!(whole_pages, 4, "one token at least is left to compute");
        let (_, other) = manager.match_prefix(prompt(&[0, 1, 2, 3, 9, 9, 9, 9, 9], 0));
        assert_eq!(other, 4);
        assert_eq!(manager.match_prefix(prompt(&tokens, 1)).1, 0, "another salt finds nothing");
    }

    #[test]
    fn the_longest_idle_page_is_taken_first() {
        let manager = BlockManager::new(&[group(2, None)], false);
        let fill = |tokens: &[u32]| {
            let mut pages = SequencePages::default();
            assert!(manager.grow(&mut pages, 4));
            manager.commit(&mut pages, prompt(tokens, 0), 4);
        };
        fill(&[1; 4]);
        fill(&[2; 4]);
        assert_eq!(manager.match_prefix(prompt(&[1; 5], 0)).1, 4);
        fill(&[3; 4]);
        assert_eq!(manager.match_prefix(prompt(&[2; 5], 0)).1, 0, "the first was used again since");
        assert_eq!(manager.match_prefix(prompt(&[1; 5], 0)).1, 4);
    }

    #[test]
    fn a_window_group_frees_what_it_cannot_see_and_a_hit_needs_all_groups() {
        let manager = BlockManager::new(&[group(8, None), group(8, Some(5))], false);
        let tokens: Vec<u32> = (0..17).collect();
        let mut pages = SequencePages::default();
        assert!(manager.grow(&mut pages, 16));
        manager.commit(&mut pages, prompt(&tokens, 0), 16);
        // Position 16 sees 12..=16, so pages 0, 1 and 2 are passed.
        assert_eq!(manager.available(), [4, 7]);
        assert_eq!(pages.table(1).filter(|&p| p == NO_PAGE).count(), 3);
        drop(pages);
        assert_eq!(manager.available(), [8, 8]);
        let (pages, n_cached) = manager.match_prefix(prompt(&tokens, 0));
        assert_eq!(n_cached, 16);
        assert_eq!(manager.available(), [4, 7]);
        assert_eq!(pages.freeable(1), 1);
    }

    #[test]
    fn a_deterministic_cache_tells_who_wrote_a_page() {
        let tokens: Vec<u32> = (0..13).collect();
        let content = |n_prompt| Content { tokens: &tokens, n_prompt, salt: 0 };
        let found = |deterministic, wrote, asks| {
            let manager = BlockManager::new(&[group(4, None)], deterministic);
            let mut pages = SequencePages::default();
            assert!(manager.grow(&mut pages, 12));
            manager.commit(&mut pages, content(wrote), 12);
            manager.match_prefix(content(asks)).1
        };
        assert_eq!(found(false, 5, 13), 12);
        assert_eq!(found(true, 5, 13), 4, "the second page holds generated rows");
        assert_eq!(found(true, 4, 13), 4);
        assert_eq!(found(true, 5, 5), 12, "a sequence finds its own pages");
        assert_eq!(found(true, 12, 13), 12, "and a longer prompt those of a shorter");
    }
}
