//! The Intel 8259A Programmable Interrupt Controller's command words (8259A datasheet, "Programming the 8259A"), and the
//! Edge/Level Control Registers that PC chipsets add (82371AB PIIX4 datasheet, "ELCR1/ELCR2 Edge/Level Control Register").

/// Command port of the master; its data port follows.
pub const MASTER_COMMAND: u16 = 0x20;
/// Data port of the master.
pub const MASTER_DATA: u16 = 0x21;
/// Command port of the slave; its data port follows.
pub const SLAVE_COMMAND: u16 = 0xa0;
/// Data port of the slave.
pub const SLAVE_DATA: u16 = 0xa1;
/// Edge/level control of IRQ 0 to 7.
pub const ELCR_MASTER: u16 = 0x4d0;
/// Edge/level control of IRQ 8 to 15.
pub const ELCR_SLAVE: u16 = 0x4d1;

/// The master's input that the slave's INT output drives.
pub const CASCADE_INPUT: u8 = 2;
/// The input whose vector is given when no request is left at the acknowledge ("the 8259A will issue an interrupt level 7").
pub const SPURIOUS_LEVEL: u8 = 7;

/// ELCR1: IRQ 0 (timer), 1 (keyboard) and 2 (cascade) "must be edge": bits 0 to 2 read 0.
pub const ELCR_MASTER_WRITABLE: u8 = 0xf8;
/// ELCR2: IRQ 8 (RTC) and 13 (FERR#) must be edge: bits 0 and 5 read 0.
pub const ELCR_SLAVE_WRITABLE: u8 = 0xde;

/// Command port: 1 says that this is ICW1.
pub const ICW1_SELECT: u8 = 1 << 4;
/// ICW1 IC4: ICW4 will follow.
pub const ICW1_NEEDS_ICW4: u8 = 1 << 0;
/// ICW1 SNGL: no slave, so no ICW3.
pub const ICW1_SINGLE: u8 = 1 << 1;
/// ICW2: T7-T3, the upper five bits of the vector.
pub const ICW2_VECTOR: u8 = 0xf8;
/// ICW4 AEOI: automatic end of interrupt.
pub const ICW4_AUTO_EOI: u8 = 1 << 1;
/// ICW4 SFNM: special fully nested mode.
pub const ICW4_SPECIAL_FULLY_NESTED: u8 = 1 << 4;

/// Command port without [`ICW1_SELECT`]: 1 says that this is OCW3, 0 OCW2.
pub const OCW3_SELECT: u8 = 1 << 3;
/// OCW2 L2-L0: the level acted upon.
pub const OCW2_LEVEL: u8 = 0x07;
/// OCW2 EOI.
pub const OCW2_EOI: u8 = 1 << 5;
/// OCW2 SL: L2-L0 are meant.
pub const OCW2_SPECIFIC: u8 = 1 << 6;
/// OCW2 R: rotate priorities.
pub const OCW2_ROTATE: u8 = 1 << 7;
/// OCW3 RIS: with [`OCW3_READ_REGISTER`], 1 selects the ISR, 0 the IRR.
pub const OCW3_READ_ISR: u8 = 1 << 0;
/// OCW3 RR: choose what a read of the command port gives.
pub const OCW3_READ_REGISTER: u8 = 1 << 1;
/// OCW3 P: the next read is a poll.
pub const OCW3_POLL: u8 = 1 << 2;
/// OCW3 SMM: the new special mask mode, if [`OCW3_ENABLE_SPECIAL_MASK`].
pub const OCW3_SPECIAL_MASK: u8 = 1 << 5;
/// OCW3 ESMM: SMM is meant.
pub const OCW3_ENABLE_SPECIAL_MASK: u8 = 1 << 6;
/// Poll byte: an interrupt is there; its level is in bits 2:0.
pub const POLL_INTERRUPT: u8 = 1 << 7;
