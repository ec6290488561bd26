use super::*;

#[test]
fn reset_control_resets_on_a_rising_edge() {
    let mut ports = ResetPorts::default();
    // How Linux's "reboot=pci" does it: choose the kind, then pull the trigger.
    assert!(!ports.write_reset_control(SYSTEM_RESET));
    assert_eq!(ports.read_reset_control(), SYSTEM_RESET);
    assert!(ports.write_reset_control(SYSTEM_RESET | RESET_CPU));
    assert!(!ports.write_reset_control(SYSTEM_RESET | RESET_CPU), "no edge");
    assert!(!ports.write_reset_control(0xf1), "no reset bit among these");
    assert_eq!(ports.read_reset_control(), 0, "reserved bits read 0");
    // The ACPI reset register's value.
    assert!(ports.write_reset_control(6));
}

#[test]
fn port_92_resets_on_a_rising_edge_and_keeps_a20_on() {
    let mut ports = ResetPorts::default();
    assert_eq!(ports.read_port_92(), FAST_A20);
    assert!(!ports.write_port_92(0));
    assert_eq!(ports.read_port_92(), FAST_A20, "a guest cannot wrap its memory at 1 MiB");
    assert!(ports.write_port_92(FAST_INIT | FAST_A20));
    assert!(!ports.write_port_92(FAST_INIT));
}
