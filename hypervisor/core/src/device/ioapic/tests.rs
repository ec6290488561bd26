//! The I/O APIC against its datasheet.
