//! The console: every command answers, for people and for machines, and mistakes are explained.

use anyhow::{Result, ensure};
use lamina_tests::{Bench, Case, field, reply};
use xtask::machine::PROMPT;

const ONE_GUEST: &str = r#"
[[vm]]
name = "hello"
image = "hello"
memory = "4M"
"#;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::both("every_command_answers_as_text_and_json", every_command),
        Case::bios("line_editing_history_and_completion", line_editing),
        Case::bios("mistakes_are_explained", mistakes),
        Case::bios("reboot_starts_anew", reboot),
        Case::bios("power_off_after_and_when_done", power_off_by_configuration),
    ]
}

/// Each command and a word that its text has.
const COMMANDS: [(&str, &str); 10] = [
    ("help", "vm create"),
    ("vm list", "hello"),
    ("vm info hello", "exit code 0"),
    ("vm log hello", "verdict: pass"),
    ("mem", "free"),
    ("cpu", "TSC"),
    ("sched", "hello"),
    ("stats", "I/O instruction"),
    ("dmesg", "vm hello: stopped"),
    ("version", "Lamina"),
];

fn every_command(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(ONE_GUEST).boot()?;
    session.expect("vm hello: stopped (exit code 0)")?;
    for (command, word) in COMMANDS {
        let text = session.command(command)?;
        ensure!(text.contains(word), "`{command}` does not say {word:?}: {text}");
        let json = reply(&mut session, command)?;
        ensure!(json.get("error").is_none(), "`{command} --json` is an error: {json}");
    }
    session.power_off()
}

fn line_editing(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(ONE_GUEST).boot()?;
    session.expect("vm hello: stopped (exit code 0)")?;
    let first = session.command("version")?;
    ensure!(first.contains("Lamina"), "no version: {first}");
    // Backspace takes the wrong letter back.
    session.send_bytes(b"versiom\x7fn\r")?;
    session.expect("Lamina 0.")?;
    session.expect(PROMPT)?;
    // Arrow up brings the last command again.
    session.send_bytes(b"\x1b[A\r")?;
    session.expect("Lamina 0.")?;
    session.expect(PROMPT)?;
    // Tab completes a command's word and a VM's name.
    session.send_bytes(b"vers\t\r")?;
    session.expect("Lamina 0.")?;
    session.expect(PROMPT)?;
    session.send_bytes(b"vm log he\t\r")?;
    session.expect("verdict: pass")?;
    session.expect(PROMPT)?;
    session.power_off()
}

fn mistakes(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(ONE_GUEST).boot()?;
    session.expect("vm hello: stopped (exit code 0)")?;
    for (command, part) in [
        ("vm lst", "list"),
        ("vm info nobody", "hello"),
        ("vm create two --image nothing", "hello"),
        ("vm create hello --image hello", "already"),
        ("vm create two --image hello --memory 3", "memory"),
        ("vm resume hello", "stopped"),
    ] {
        let text = session.command(command)?;
        ensure!(text.contains("error: ") && text.contains(part), "`{command}` does not say {part:?}: {text}");
    }
    let error = reply(&mut session, "vm info nobody")?;
    field(&error, "/error")?;
    session.power_off()
}

fn reboot(bench: &Bench) -> Result<()> {
    let mut session = bench.machine().config(ONE_GUEST).boot()?;
    session.expect("vm hello: stopped (exit code 0)")?;
    session.send("reboot")?;
    let heard = session.expect("vm hello: stopped (exit code 0)")?;
    ensure!(heard.contains("hello| verdict: pass"), "the guest did not run again");
    session.power_off()
}

fn power_off_by_configuration(bench: &Bench) -> Result<()> {
    let config = format!("[host]\npoweroff_when_done = true\n{ONE_GUEST}");
    let mut session = bench.machine().config(&config).boot()?;
    session.expect("vm hello: stopped (exit code 0)")?;
    session.wait_end()?;

    let config = "[host]\npoweroff_after = \"2s\"\n[[vm]]\nname = \"spin\"\nimage = \"spin\"\n";
    let mut session = bench.machine().config(config).boot()?;
    session.expect("vm spin: started")?;
    session.wait_end()?;
    Ok(())
}
