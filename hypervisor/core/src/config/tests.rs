//! Tests of the configuration file: what is taken, every error with its line, any text, round trips.

use super::*;
use crate::loader::Format;
use alloc::format;
use alloc::string::{String, ToString};
use log::LevelFilter;
use proptest::prelude::*;
use units::{format_duration_us, format_size};

const FULL: &str = r#"
[host]
log_level = "debug"
on_panic = "reboot"
tee_serial = true
poweroff_after = "30s"
poweroff_when_done = true

[[vm]]
name = "linux"
image = "linux/vmlinuz"
initrd = "linux/initrd"
cmdline = "console=ttyS0 quiet"
memory = "128M"
quantum = "5ms"
order = 10
autostart = false
format = "pvh"
modules = ["a.bin", "b.bin one  two"]

[[vm]]
name = "flat"
image = "boot.bin"
memory = 1_048_576
order = 5
format = "flat16"
load_address = 0x7c00
entry = "0x7c02"
"#;

#[test]
fn every_key_is_taken() {
    let config = Config::parse(FULL).unwrap();
    let host = HostConfig {
        log_level: LevelFilter::Debug,
        on_panic: OnPanic::Reboot,
        tee_serial: true,
        poweroff_after_us: Some(30_000_000),
        poweroff_when_done: true,
    };
    assert_eq!(config.host, host);
    let mut linux = VmConfig::new("linux", "linux/vmlinuz").unwrap();
    linux.initrd = Some("linux/initrd".into());
    linux.cmdline = "console=ttyS0 quiet".into();
    linux.memory_bytes = 128 << 20;
    linux.quantum_us = 5_000;
    linux.order = 10;
    linux.autostart = false;
    linux.format = Format::Pvh;
    let module = |file: &str, cmdline: &str| ModuleConfig { file: file.into(), cmdline: cmdline.into() };
    linux.modules = [module("a.bin", ""), module("b.bin", "one  two")].into();
    let mut flat = VmConfig::new("flat", "boot.bin").unwrap();
    flat.memory_bytes = 1 << 20;
    flat.order = 5;
    flat.format = Format::Flat16;
    flat.load_address = Some(0x7c00);
    flat.entry = Some(0x7c02);
    assert_eq!(config.vms, [linux, flat]);
    let files: Vec<_> = config.vms[0].files().map(|(key, file)| (key.name(), file)).collect();
    let expected = [("image", "linux/vmlinuz"), ("initrd", "linux/initrd"), ("modules", "a.bin"), ("modules", "b.bin")];
    assert_eq!(files, expected);
}

#[test]
fn what_is_not_given_has_its_documented_default() {
    let config = Config::parse("[[vm]]\nname = 'a'\nimage = 'b'").unwrap();
    let vm = &config.vms[0];
    assert_eq!((vm.memory_bytes, vm.quantum_us, vm.order, vm.autostart), (64 << 20, 10_000, 100, true));
    assert_eq!((vm.format, vm.load_address, vm.entry, vm.initrd.as_ref()), (Format::Auto, None, None, None));
    assert_eq!(config.host.log_level, LevelFilter::Info);
    assert_eq!(Config::parse(""), Ok(Config::default()));
}

#[test]
fn the_documented_file_is_one() {
    let source = include_str!("mod.rs");
    let (_, file) = source.split_once("```toml\n").unwrap();
    let (file, _) = file.split_once("//! ```").unwrap();
    let text: String = file.lines().map(|line| line.trim_start_matches("//!").to_string() + "\n").collect();
    let error = Config::parse(&text).unwrap_err().message;
    assert!(error.contains("load_address = 0x100000: only a flat image has it"), "{error}");
    let flat = Config::parse(&text.replace("\"auto\"", "\"flat32\"")).unwrap();
    let Config { vms, .. } = flat;
    // What the file says in its comments to be the default is the default.
    let mut expected = VmConfig::new("linux", "linux/vmlinuz").unwrap();
    for (key, value) in [
        (VmKey::Initrd, "linux/initrd"),
        (VmKey::Cmdline, "console=ttyS0"),
        (VmKey::Modules, "mod.bin arg"),
        (VmKey::Format, "flat32"),
        (VmKey::LoadAddress, "0x100000"),
        (VmKey::Entry, "0x100000"),
    ] {
        expected.set(key, value).unwrap();
    }
    assert_eq!(vms, [expected]);
    for key in VmKey::ALL.iter().map(|key| key.name()).chain(HostKey::ALL.iter().map(|key| key.name())) {
        assert!(text.contains(&format!("\n {key} = ")), "{key} is not documented");
    }
}

#[test]
fn vms_start_in_their_order() {
    let vm = |name: &str, more: &str| format!("[[vm]]\nname = '{name}'\nimage = 'i'\n{more}\n");
    let text = vm("last", "order = 200")
        + &vm("a", "")
        + &vm("not", "autostart = false")
        + &vm("b", "")
        + &vm("first", "order = 1");
    let config = Config::parse(&text).unwrap();
    let order: Vec<&str> = config.autostart_order().into_iter().map(|vm| vm.name.as_str()).collect();
    assert_eq!(order, ["first", "a", "b", "last"]);
}

#[test]
fn an_error_names_line_vm_key_and_remedy() {
    // The VM's table begins in line 3 of the text, its name is in line 4, the first further line is line 6.
    let vm = |lines: &str| format!("# a VM\n\n[[vm]]\nname = \"web\"\nimage = \"w\"\n{lines}");
    let cases = [
        (
            vm("memory = \"12Q\""),
            r#"lamina.toml:6: vm "web": memory = "12Q": not a size; write a number with K, M or G, such as "64M""#,
        ),
        (vm("\nmemory = 4096"), r#"lamina.toml:7: vm "web": memory = 4096: memory is 1M to 1024G"#),
        (
            vm("memory = -1"),
            r#"lamina.toml:6: vm "web": memory = -1: not a size; write a number with K, M or G, such as "64M""#,
        ),
        (vm("memory = 1048577"), r#"lamina.toml:6: vm "web": memory = 1048577: memory is a multiple of 4K"#),
        (vm("memory = true"), r#"lamina.toml:6: vm "web": memory = true: write a size, such as "64M" or 67108864"#),
        (vm("memroy = '1M'"), r#"lamina.toml:6: vm "web": unknown key "memroy"; did you mean memory?"#),
        (vm("quantum = 10"), r#"lamina.toml:6: vm "web": quantum = 10: write a time in quotes, such as "10ms""#),
        (vm("quantum = '50us'"), r#"lamina.toml:6: vm "web": quantum = '50us': a quantum is 100us to 1s"#),
        (vm("quantum = '2s'"), r#"lamina.toml:6: vm "web": quantum = '2s': a quantum is 100us to 1s"#),
        (
            vm("format = 'elf'"),
            r#"lamina.toml:6: vm "web": format = 'elf': not one of auto, linux, pvh, multiboot, flat16, flat32, flat64"#,
        ),
        (vm("order = 1.5"), r#"lamina.toml:6: vm "web": order = 1.5: write a whole number"#),
        (vm("order = -1"), r#"lamina.toml:6: vm "web": order = -1: not a whole number from 0 to 4294967295"#),
        (vm("autostart = 'yes'"), r#"lamina.toml:6: vm "web": autostart = 'yes': write true or false"#),
        (
            vm("modules = 'm'"),
            r#"lamina.toml:6: vm "web": modules = 'm': write an array of strings, such as ["FILE ARGUMENTS"]"#,
        ),
        (
            vm("modules = [\n'ok',\n'/m']"),
            r#"lamina.toml:8: vm "web": modules = '/m': not a file of the ramdisk; write its path as in "linux/vmlinuz", without a leading / and without .."#,
        ),
        (
            vm("entry = 1"),
            r#"lamina.toml:6: vm "web": entry = 1: only a flat image has it; give the format flat16, flat32 or flat64, or leave this out"#,
        ),
        (
            vm("cmdline = \"\"\"a\nb\"\"\""),
            r#"lamina.toml:6: vm "web": cmdline = """a b""": a command line is one line, without control characters"#,
        ),
        (
            vm("[[vm]]\nname = 'web'\nimage = 'x'"),
            r#"lamina.toml:7: vm "web": this name is taken by the VM in line 4; give each VM its own"#,
        ),
        (vm("[[vm]]\nimage = 'x'"), "lamina.toml:6: vm number 2: name is missing; write name = \"NAME\""),
        (
            "[[vm]]\nname = 'a'".into(),
            r#"lamina.toml:1: vm "a": image is missing; write image = "FILE", a file of the boot image's ramdisk"#,
        ),
        (
            "[[vm]]\nname = 'Web'\n".into(),
            r#"lamina.toml:2: vm "Web": name = 'Web': not a VM name; write a-z, 0-9 and -, at most 31 characters, the first a letter or digit"#,
        ),
        (
            "[vm]\nname = 'a'".into(),
            "lamina.toml:1: vm is a list of tables; write [[vm]] on a line of its own before each VM",
        ),
        ("\nhost = 1".into(), "lamina.toml:2: host: write [host] on a line of its own, and its keys below it"),
        ("[host]\non_panic = 'cry'".into(), "lamina.toml:2: host: on_panic = 'cry': not one of halt, reboot"),
        ("[hosts]".into(), r#"lamina.toml:1: unknown key "hosts"; did you mean host?"#),
        ("[network]".into(), r#"lamina.toml:1: unknown key "network"; allowed are host, vm"#),
        (
            "[host]\nlog_level = 'loud'".into(),
            "lamina.toml:2: host: log_level = 'loud': not one of error, warn, info, debug, trace",
        ),
        (
            "[host]\npoweroff_after = '1h'".into(),
            r#"lamina.toml:2: host: poweroff_after = '1h': not a time; write a number with us, ms or s, such as "10ms""#,
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(Config::parse(&text).unwrap_err().to_string(), expected, "{text}");
    }
}

#[test]
fn broken_toml_is_told_with_its_line() {
    for (text, line) in [("[host\n", 1), ("a = 1\na = 2", 2), ("[[vm]]\nname = \"x", 2), ("\n\n\n=", 4)] {
        let error = Config::parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn a_name_is_short_and_plain() {
    for good in ["a", "0", "web-1", "a--", "abcdefghijklmnopqrstuvwxyz01234"] {
        assert!(VmConfig::new(good, "i").is_ok(), "{good}");
    }
    for bad in ["", "-a", "A", "a_b", "a b", "ä", "abcdefghijklmnopqrstuvwxyz012345"] {
        assert_eq!(VmConfig::new(bad, "i"), Err(ValueError::NotAName), "{bad}");
    }
    for bad in ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "a\nb"] {
        assert_eq!(VmConfig::new("a", bad), Err(ValueError::NotAFile), "{bad}");
    }
}

fn file_name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_]{1,8}(/[a-z.0-9]{0,4}[a-z]){0,2}"
}

fn any_vm() -> impl Strategy<Value = VmConfig> {
    let flat = prop_oneof![Just(Format::Flat16), Just(Format::Flat32), Just(Format::Flat64)];
    let numbers = (256u64..1 << 28, 100u64..=1_000_000, any::<u32>(), any::<bool>());
    let files =
        (file_name(), proptest::option::of(file_name()), proptest::collection::vec((file_name(), "\\PC{0,9}"), 0..3));
    let address = proptest::option::of(any::<u64>());
    let format = prop_oneof![
        prop_oneof![Just(Format::Auto), Just(Format::Linux), Just(Format::Pvh), Just(Format::Multiboot)]
            .prop_map(|format| (format, None, None)),
        (flat, address.clone(), address),
    ];
    ("[a-z0-9][a-z0-9-]{0,30}", files, "\\PC{0,20}", numbers, format).prop_map(
        |(
            name,
            (image, initrd, modules),
            cmdline,
            (pages, quantum_us, order, autostart),
            (format, load_address, entry),
        )| {
            let modules = modules.into_iter().map(|(file, cmdline)| ModuleConfig { file, cmdline }).collect();
            let memory_bytes = pages * 4096;
            VmConfig {
                name,
                image,
                initrd,
                cmdline,
                modules,
                memory_bytes,
                quantum_us,
                order,
                autostart,
                format,
                load_address,
                entry,
            }
        },
    )
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn written(vm: &VmConfig) -> String {
    let modules: Vec<String> =
        vm.modules.iter().map(|module| quoted(&format!("{} {}", module.file, module.cmdline))).collect();
    let mut text = format!("[[vm]]\nname = {}\nimage = {}\n", quoted(&vm.name), quoted(&vm.image));
    if let Some(initrd) = &vm.initrd {
        text += &format!("initrd = {}\n", quoted(initrd));
    }
    text += &format!("cmdline = {}\nmodules = [{}]\n", quoted(&vm.cmdline), modules.join(", "));
    text +=
        &format!("memory = '{}'\nquantum = '{}'\n", format_size(vm.memory_bytes), format_duration_us(vm.quantum_us));
    text += &format!("order = {}\nautostart = {}\n", vm.order, vm.autostart);
    text += &format!("format = '{}'\n", format!("{:?}", vm.format).to_lowercase());
    for (key, address) in [("load_address", vm.load_address), ("entry", vm.entry)] {
        text += &address.map_or_else(String::new, |address| format!("{key} = '{address:#x}'\n"));
    }
    text
}

proptest! {
    #[test]
    fn what_is_written_is_read(vms in proptest::collection::vec(any_vm(), 0..4)) {
        let mut config = Config { vms, ..Config::default() };
        for (index, vm) in config.vms.iter_mut().enumerate() {
            vm.name = format!("{index}{}", vm.name.chars().take(30).collect::<String>());
        }
        let text: String = config.vms.iter().map(written).collect();
        prop_assert_eq!(Config::parse(&text), Ok(config), "{}", text);
    }

    #[test]
    fn any_text_is_answered_in_one_line(text in "(\\PC|\n){0,80}") {
        if let Err(error) = Config::parse(&text) {
            prop_assert!(!error.to_string().contains('\n'));
            prop_assert!(error.line <= text.lines().count() + 1);
        }
    }

    #[test]
    fn a_damaged_file_is_answered_in_one_line(at in 0usize..600, damage in "(\\PC|\n|[\\[\\]\"'=.]){0,4}", cut in 0usize..6) {
        let at = at.min(FULL.len());
        let text = format!("{}{damage}{}", &FULL[..at], &FULL[(at + cut).min(FULL.len())..]);
        if let Err(error) = Config::parse(&text) {
            prop_assert!(!error.to_string().contains('\n'));
            prop_assert!(error.line <= text.lines().count() + 1);
        }
    }
}

#[test]
fn nesting_is_bounded() {
    for open in ["[", "{a="] {
        assert!(Config::parse(&format!("vm = {}", open.repeat(20_000))).is_err());
    }
    assert!(Config::parse(&format!("{}a = 1", "a.".repeat(20_000))).is_err());
}
