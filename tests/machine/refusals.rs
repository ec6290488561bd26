//! What Lamina refuses, each time with one line that says what is wrong and what to do.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case};
use regex::Regex;
use xtask::machine::{Kind, PROMPT};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both("refuses_a_machine_without_vmx", no_vmx),
        Case::bios("refuses_a_cpu_of_another_vendor", |bench| {
            refused_cpu(bench, "ryzen", r#"no VT-x: .*"AuthenticAMD".*use an Intel CPU"#)
        }),
        Case::bios("refuses_a_cpu_without_ept", |bench| {
            refused_cpu(bench, "core2_penryn_t9600", "no EPT: .*use a CPU with")
        }),
        Case::bios("refuses_a_cpu_without_unrestricted_guest", |bench| {
            refused_cpu(bench, "corei5_lynnfield_750", "no unrestricted guest: .*use a CPU with")
        }),
        Case::both("refuses_a_boot_without_ramdisk", no_ramdisk),
        Case::bios("refuses_a_broken_config", broken_config),
        Case::bios("refuses_an_unknown_key", unknown_key),
        Case::bios("refuses_a_file_that_is_not_there", missing_file),
        Case::bios("refuses_an_image_that_is_no_kernel", no_kernel),
    ]
}

fn no_vmx(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().kind(Kind::QemuTcg).boot()?;
    session.expect(Regex::new(r"(?m)^.*VT-x.*\n")?)?;
    Ok(())
}

/// Bochs plays processors of several generations: what each lacks is said in the manual's words.
fn refused_cpu(bench: &Bench, model: &'static str, line: &str) -> Result<()> {
    let mut session = bench.machine().cpu_model(model).boot()?;
    session.expect(Regex::new(&format!("(?m)^lamina: cannot start: {line}.*$"))?)?;
    session.expect("lamina: halted")?;
    Ok(())
}

fn no_ramdisk(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().no_ramdisk().boot()?;
    session.expect(Regex::new(r"(?mi)^.*no ramdisk.*\n")?)?;
    Ok(())
}

fn broken_config(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().broken_config("[host]\nlog_level = \"info\n").boot()?;
    session.expect("lamina.toml:2: ")?;
    Ok(())
}

fn unknown_key(bench: &Bench) -> Result<()> {
    let config = "[[vm]]\nname = \"a\"\nimage = \"b\"\nmemry = \"4M\"\n";
    let mut session = bench.machine().broken_config(config).boot()?;
    session.expect("lamina.toml:4: ")?;
    let line = session.expect("\n")?;
    ensure!(line.contains("memry") && line.contains("memory"), "the key or its neighbour is not named: {line}");
    Ok(())
}

fn missing_file(bench: &Bench) -> Result<()> {
    let config = "[[vm]]\nname = \"a\"\nimage = \"nowhere\"\n";
    let mut session = bench.machine().broken_config(config).boot()?;
    session.expect(Regex::new(r"(?m)^.*nowhere.*\n")?)?;
    // The rest goes on.
    session.expect(PROMPT)?;
    session.power_off()
}

/// The configuration itself is a file of the ramdisk, and certainly no kernel.
fn no_kernel(bench: &Bench) -> Result<()> {
    let config = "[[vm]]\nname = \"text\"\nimage = \"lamina.toml\"\n";
    let mut session = bench.machine().broken_config(config).boot()?;
    session.expect("vm text: not a kernel image")?;
    session.expect(PROMPT)?;
    session.power_off()
}
