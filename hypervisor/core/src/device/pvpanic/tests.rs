use super::Pvpanic;

#[test]
fn a_panic_ends_the_guest_and_one_that_it_handles_is_noted() {
    assert_eq!(Pvpanic::read(), 0b11, "PVPANIC_PANICKED and PVPANIC_CRASH_LOADED");
    let mut device = Pvpanic::default();
    for unknown in [0, 0x04, 0xfc] {
        assert!(!device.write(unknown));
    }
    assert!(!device.crash_loaded());
    assert!(!device.write(0x02));
    assert!(device.crash_loaded());
    assert!(device.write(0x01) && device.write(0xff));
}
