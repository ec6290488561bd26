//! Every frame of the machine and every byte that is promised, counted: what the console tells must add up, to the page.

use anyhow::{Context, Result, ensure};
use lamina_tests::{Session, field, number, reply};
use regex::Regex;
use serde_json::Value;

const FRAME_BYTES: u64 = 4096;

/// Fails where `mem` and `alloc` do not add up. Guests may run meanwhile: all is read at once, by `state`.
pub(crate) fn check(session: &mut Session) -> Result<()> {
    let state = reply(session, "state")?;
    frames(&state)?;
    vpids(&state)?;
    promises(&state)
}

/// "Frames that the machine has for use; the others sum up to it."
fn frames(state: &Value) -> Result<()> {
    let mut sum = 0;
    for kind in ["free", "heap", "host"] {
        sum += number(state, &format!("/mem/{kind}_frames"))?;
    }
    for vm in rows(state, "/mem/vms")? {
        sum += frames_of(vm)?;
    }
    let total = number(state, "/mem/total_frames")?;
    ensure!(sum == total, "the frames add up to {sum}, there are {total}: {}", state["mem"]);
    Ok(())
}

/// Each vCPU of a VM that has a machine has a VPID, and nobody else has one.
fn vpids(state: &Value) -> Result<()> {
    let mut vcpus = 0;
    for vm in rows(state, "/vms")? {
        if number(vm, "/frames/vcpu")? > 0 {
            vcpus += number(vm, "/vcpus")?;
        }
    }
    let taken = number(state, "/mem/vpids")?;
    ensure!(taken == vcpus, "{taken} VPIDs are taken by {vcpus} vCPUs: {}", state["vms"]);
    Ok(())
}

fn frames_of(vm: &Value) -> Result<u64> {
    Ok(number(vm, "/frames/ram")? + number(vm, "/frames/ept")? + number(vm, "/frames/vcpu")?)
}

/// What is promised is the sum of what each VM is promised, and no more than may be; what is populated is what is held.
fn promises(state: &Value) -> Result<()> {
    let mut reserved = 0;
    for vm in rows(state, "/alloc/vms")? {
        let name = field(vm, "/vm")?;
        let figure = |key: &str| number(vm, &format!("/{key}_bytes"));
        reserved += figure("reserved")?;
        let (min, target, max) = (figure("min")?, figure("target")?, figure("max")?);
        ensure!(min <= target && target <= max, "{name} is to have {target} bytes, of {min} to {max}");
        let held = rows(state, "/mem/vms")?.iter().find(|row| row.get("name") == Some(name));
        let ram = held.map_or(Ok(0), |row| number(row, "/frames/ram"))?;
        let populated = figure("populated")?;
        ensure!(populated == ram * FRAME_BYTES, "{name} has {populated} bytes populated in {ram} frames");
    }
    let memory = field(state, "/alloc/memory")?;
    let (sum, limit) = (number(memory, "/reserved_bytes")?, number(memory, "/limit_bytes")?);
    ensure!(reserved == sum, "{reserved} bytes are promised to VMs, {sum} in all: {}", state["alloc"]);
    ensure!(sum <= limit, "{sum} bytes are promised, {limit} may be: {}", state["alloc"]);
    Ok(())
}

fn rows<'state>(state: &'state Value, pointer: &str) -> Result<&'state Vec<Value>> {
    field(state, pointer)?.as_array().with_context(|| format!("{pointer} is no array"))
}

/// What is held: bytes of the hypervisor's heap, all frames that are not free, and VPIDs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holdings {
    heap_used_bytes: u64,
    free_frames: u64,
    vpids: u64,
}

/// Reads them. The console remembers the lines typed last, 64 of them: they are the same each time that this is asked for.
pub(crate) fn holdings(session: &mut Session) -> Result<Holdings> {
    for _ in 0..32 {
        session.command("version")?;
        session.command("help version")?;
    }
    let mem = reply(session, "mem")?;
    let figure = |name: &str| number(&mem, &format!("/{name}"));
    Ok(Holdings {
        heap_used_bytes: figure("heap_used_bytes")?,
        free_frames: figure("free_frames")?,
        vpids: figure("vpids")?,
    })
}

/// `insufficient resources: memory: requested 3 x 64 MiB = 192 MiB, available 120 MiB (reserved: linux 512 MiB, ...)`, each
/// figure as `alloc` has it.
pub(crate) fn ensure_exact_refusal(session: &mut Session, error: &str, count: u64, each_bytes: u64) -> Result<()> {
    const SIZE: &str = r"(\d+ (?:MiB|KiB|bytes))";
    let line = Regex::new(&format!(
        r"insufficient resources: memory: requested (\d+) x (?:{SIZE}|\({SIZE} \+ {SIZE} tables\)) = {SIZE}, available {SIZE} \(reserved: (.*)\)$"
    ))?;
    let found = line.captures(error).with_context(|| format!("the refusal is {error:?}"))?;
    let size = |index: usize| found.get(index).map_or(Ok(0), |text| bytes(text.as_str()));
    let each = size(2)? + size(3)?;
    ensure!(found[1].parse::<u64>()? == count && each == each_bytes, "not {count} x {each_bytes} bytes: {error}");
    ensure!(size(5)? == count * (each + size(4)?), "the product is wrong: {error}");
    let alloc = reply(session, "alloc")?;
    let (limit, reserved) = (number(&alloc, "/memory/limit_bytes")?, number(&alloc, "/memory/reserved_bytes")?);
    ensure!(size(6)? == limit - reserved, "available is {} in `alloc`: {error}", limit - reserved);
    let mut held = 0;
    for holder in found[7].split(", ").filter(|holder| *holder != "nothing") {
        // The name may have a space: the amount is the last two words.
        let (amount, _) = holder.rmatch_indices(' ').nth(1).with_context(|| format!("no amount in {holder:?}"))?;
        held += bytes(holder.get(amount + 1..).unwrap_or_default())?;
    }
    ensure!(held == reserved, "the holders have {held} bytes, {reserved} are reserved: {error}");
    Ok(())
}

/// `64 MiB` in bytes.
fn bytes(text: &str) -> Result<u64> {
    let (number, unit) = text.split_once(' ').with_context(|| format!("no unit in {text:?}"))?;
    let shift = match unit {
        "MiB" => 20,
        "KiB" => 10,
        _ => 0,
    };
    Ok(number.parse::<u64>()? << shift)
}
