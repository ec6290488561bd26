//! The traditional memory balloon device ("Traditional Memory Balloon Device").

/// VIRTIO_BALLOON_F_MUST_TELL_HOST: "host has to be told before pages from the balloon are used".
pub const F_MUST_TELL_HOST: u64 = 1 << 0;
/// VIRTIO_BALLOON_F_STATS_VQ: "a virtqueue for reporting guest memory statistics is present".
pub const F_STATS_VQ: u64 = 1 << 1;
/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM: "deflate balloon on guest out of memory condition".
pub const F_DEFLATE_ON_OOM: u64 = 1 << 2;

/// Virtqueue of pages that the driver gives.
pub const INFLATE_QUEUE: usize = 0;
/// Virtqueue of pages that the driver takes back.
pub const DEFLATE_QUEUE: usize = 1;
/// Virtqueue of statistics.
pub const STATS_QUEUE: usize = 2;

/// Bytes of a page frame number: "the page number is [...] a le32".
pub const PFN_LEN: usize = 4;
/// The balloon's pages have 4096 bytes, whatever the guest's own page size is.
pub const PFN_SHIFT: u32 = 12;

/// Offset of `num_pages` in the configuration space: "the balloon size requested by the device".
pub const CONFIG_NUM_PAGES: u32 = 0;
/// Offset of `actual`: "the number of pages that the driver has"; the driver writes it.
pub const CONFIG_ACTUAL: u32 = 4;
/// End of the configuration space with the features that are offered here.
pub const CONFIG_END: u32 = 8;

/// Bytes of a statistic: tag (2), value (8), packed.
pub const STAT_LEN: usize = 10;
/// VIRTIO_BALLOON_S_SWAP_IN: bytes swapped in.
pub const S_SWAP_IN: u16 = 0;
/// VIRTIO_BALLOON_S_SWAP_OUT: bytes swapped out.
pub const S_SWAP_OUT: u16 = 1;
/// VIRTIO_BALLOON_S_MAJFLT: page faults that needed the disk.
pub const S_MAJFLT: u16 = 2;
/// VIRTIO_BALLOON_S_MINFLT: page faults that did not.
pub const S_MINFLT: u16 = 3;
/// VIRTIO_BALLOON_S_MEMFREE: bytes used for nothing.
pub const S_MEMFREE: u16 = 4;
/// VIRTIO_BALLOON_S_MEMTOT: bytes of memory.
pub const S_MEMTOT: u16 = 5;
/// VIRTIO_BALLOON_S_AVAIL: bytes that can be had without swapping.
pub const S_AVAIL: u16 = 6;
/// VIRTIO_BALLOON_S_CACHES: bytes of caches that can be given up quickly.
pub const S_CACHES: u16 = 7;
