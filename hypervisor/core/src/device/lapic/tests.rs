//! The local APIC against the SDM's tables.
