//! [`Queue`]: what waits, ordered by a key, one binary heap per affinity class.
//!
//! Every item knows its place, so that any can be taken out or moved in logarithmic time. Nothing allocates once
//! [`Queue::make_room`] was called.

use super::classes::Classes;
use alloc::vec::Vec;

/// What orders a queue: `major` first, then `minor`; less is sooner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    pub(super) major: u128,
    pub(super) minor: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    item: usize,
}

/// Where an item waits.
#[derive(Clone, Copy)]
struct Place {
    class: usize,
    index: usize,
}

/// Items by number, each at most once.
#[derive(Default)]
pub(super) struct Queue {
    heaps: Vec<Vec<Entry>>,
    places: Vec<Option<Place>>,
    /// Comparisons and moves made so far.
    steps: u64,
}

impl Queue {
    /// Room for items 0 to `items`, and for every member of every class.
    pub(super) fn make_room(&mut self, items: usize, classes: &Classes) {
        if self.places.len() < items {
            self.places.resize(items, None);
        }
        if self.heaps.len() < classes.len() {
            self.heaps.resize_with(classes.len(), Vec::new);
        }
        for (number, heap) in self.heaps.iter_mut().enumerate() {
            heap.reserve(classes.members(number).saturating_sub(heap.len()));
        }
    }

    /// Queues an item, or moves it to its new key.
    pub(super) fn insert(&mut self, item: usize, class: usize, key: Key) {
        if let Some(Some(place)) = self.places.get(item).copied()
            && place.class == class
            && let Some(entry) = self.heaps.get_mut(class).and_then(|heap| heap.get_mut(place.index))
        {
            entry.key = key;
            let index = self.rise(class, place.index);
            self.sink(class, index);
            return;
        }
        self.remove(item);
        let (Some(heap), Some(place)) = (self.heaps.get_mut(class), self.places.get_mut(item)) else { return };
        let index = heap.len();
        heap.push(Entry { key, item });
        *place = Some(Place { class, index });
        self.rise(class, index);
    }

    /// Takes an item out. Answers whether it was there.
    pub(super) fn remove(&mut self, item: usize) -> bool {
        let Some(Place { class, index }) = self.places.get_mut(item).and_then(Option::take) else { return false };
        let Some(heap) = self.heaps.get_mut(class) else { return false };
        if index >= heap.len() {
            return false;
        }
        heap.swap_remove(index);
        self.settle(class, index);
        let index = self.rise(class, index);
        self.sink(class, index);
        true
    }

    /// The first item of a class.
    pub(super) fn first(&self, class: usize) -> Option<(Key, usize)> {
        self.heaps.get(class)?.first().map(|entry| (entry.key, entry.item))
    }

    /// Some of the first items of a class, in no order: the first one and the next ones after it.
    pub(super) fn foremost(&self, class: usize) -> impl Iterator<Item = (Key, usize)> + '_ {
        const MANY: usize = 7;
        self.heaps.get(class).into_iter().flat_map(|heap| heap.iter().take(MANY)).map(|entry| (entry.key, entry.item))
    }

    /// The first item of several classes.
    pub(super) fn first_of(&mut self, classes: &[usize]) -> Option<(Key, usize)> {
        self.steps += classes.len() as u64;
        classes.iter().filter_map(|&class| self.first(class)).min()
    }

    /// Comparisons and moves made so far.
    pub(super) const fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether the entry at `one` comes before that at `other`.
    fn before(&self, class: usize, one: usize, other: usize) -> bool {
        let Some(heap) = self.heaps.get(class) else { return false };
        matches!((heap.get(one), heap.get(other)), (Some(one), Some(other)) if one.key < other.key)
    }

    fn swap(&mut self, class: usize, one: usize, other: usize) {
        if let Some(heap) = self.heaps.get_mut(class)
            && one < heap.len()
            && other < heap.len()
        {
            heap.swap(one, other);
        }
        self.settle(class, one);
        self.settle(class, other);
    }

    /// Writes down where the entry at `index` is now.
    fn settle(&mut self, class: usize, index: usize) {
        let Some(entry) = self.heaps.get(class).and_then(|heap| heap.get(index)) else { return };
        if let Some(place) = self.places.get_mut(entry.item) {
            *place = Some(Place { class, index });
        }
    }

    fn rise(&mut self, class: usize, mut index: usize) -> usize {
        while index > 0 {
            let parent = (index - 1) / 2;
            self.steps += 1;
            if !self.before(class, index, parent) {
                break;
            }
            self.swap(class, index, parent);
            index = parent;
        }
        index
    }

    fn sink(&mut self, class: usize, mut index: usize) {
        loop {
            let (left, right) = (2 * index + 1, 2 * index + 2);
            self.steps += 2;
            let child = if self.before(class, right, left) { right } else { left };
            if !self.before(class, child, index) {
                return;
            }
            self.swap(class, index, child);
            index = child;
        }
    }
}
