//! Configuration mechanism #1 and the host bridge's header.

use super::*;

fn select(pci: &mut PciHost, register: u32) {
    pci.write_address(ADDRESS_ENABLE | register);
}

#[test]
fn the_address_keeps_its_defined_bits() {
    let mut pci = PciHost::new();
    pci.write_address(u32::MAX);
    assert_eq!(pci.read_address(), 0x80ff_fffc);
}

#[test]
fn without_enable_the_data_ports_are_nobodys() {
    let mut pci = PciHost::new();
    pci.write_address(0);
    assert_eq!(pci.read_data(CONFIG_DATA), None);
    assert_eq!(pci.write_data(CONFIG_DATA, 0), None);
}

#[test]
fn the_host_bridge_has_a_header() {
    let mut pci = PciHost::new();
    let mut header = std::vec::Vec::new();
    for register in (0..256).step_by(4) {
        select(&mut pci, register);
        header.extend((CONFIG_DATA..=CONFIG_DATA_END).map(|port| pci.read_data(port).unwrap()));
    }
    assert_eq!(header[..8], [0x86, 0x80, 0x37, 0x12, 0x06, 0x00, 0x80, 0x02]);
    assert_eq!(header[8..16], [0x02, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00, 0x00]);
    assert!(header[16..].iter().all(|&byte| byte == 0), "no BARs, no capabilities, no interrupt");
}

#[test]
fn only_the_writable_bits_are_written() {
    let mut pci = PciHost::new();
    for register in (0..256).step_by(4) {
        select(&mut pci, register);
        for port in CONFIG_DATA..=CONFIG_DATA_END {
            assert_eq!(pci.write_data(port, 0xff), Some(()));
        }
    }
    select(&mut pci, 0x04);
    assert_eq!([0, 1, 2, 3].map(|byte| pci.read_data(CONFIG_DATA + byte).unwrap()), [0x46, 0x01, 0x80, 0x02]);
    select(&mut pci, 0x0c);
    assert_eq!(pci.read_data(CONFIG_DATA + 1), Some(0xf8));
    // BAR sizing finds no BAR.
    select(&mut pci, 0x10);
    assert_eq!(pci.read_data(CONFIG_DATA), Some(0));
}

#[test]
fn all_other_functions_abort() {
    let mut pci = PciHost::new();
    for function in 1..0x1_0000u32 {
        select(&mut pci, function << 8);
        assert_eq!(pci.read_data(CONFIG_DATA), Some(0xff), "function {function:#x}");
    }
}
