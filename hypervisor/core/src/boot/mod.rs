//! What the boot loader hands over, checked once and turned into what the rest works with.

pub mod ramdisk;
