//! Where EPT paging structures live, and how they come about.

use crate::memory::{Frame, OutOfFrames};

/// The memory that EPT paging structures live in.
pub trait TableMemory {
    /// A frame for one structure, all of it zero.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    fn alloc_table(&mut self) -> Result<Frame, OutOfFrames>;

    /// Takes a frame back that `alloc_table` gave.
    fn free_table(&mut self, table: Frame);

    /// Reads entry `index`, 0 to 511.
    fn read_entry(&self, table: Frame, index: usize) -> u64;

    /// Writes entry `index`, 0 to 511, in one access.
    fn write_entry(&mut self, table: Frame, index: usize, value: u64);
}

/// Up to three tables, allocated all or none.
pub(super) struct NewTables {
    frames: [Frame; 3],
    count: usize,
}

impl NewTables {
    pub(super) fn alloc(memory: &mut impl TableMemory, count: u32) -> Result<Self, OutOfFrames> {
        let mut tables = Self { frames: [Frame(0); 3], count: 0 };
        for slot in 0..(count as usize).min(tables.frames.len()) {
            match memory.alloc_table() {
                Ok(frame) => {
                    tables.frames[slot] = frame;
                    tables.count += 1;
                }
                Err(error) => {
                    tables.iter().for_each(|table| memory.free_table(table));
                    return Err(error);
                }
            }
        }
        Ok(tables)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Frame> {
        self.frames.into_iter().take(self.count)
    }
}
