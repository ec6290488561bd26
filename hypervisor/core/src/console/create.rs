//! `vm create`: its options, each a key of the configuration, and the description that they make.

use super::command::{Arguments, Command};
use super::table::{Kind, Opt, option};
use crate::config::{VmConfig, VmKey};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// The options of `vm create`, each with the key of the configuration that it stands for.
const CREATE: &[(Opt, VmKey)] = &[
    (option("--image", "FILE", Kind::File, true), VmKey::Image),
    (option("--replicas", "N", Kind::Other, false), VmKey::Replicas),
    (option("--vcpus", "N", Kind::Other, false), VmKey::Vcpus),
    (option("--memory", "SIZE", Kind::Other, false), VmKey::Memory),
    (option("--memory-min", "SIZE", Kind::Other, false), VmKey::MemoryMin),
    (option("--memory-max", "SIZE", Kind::Other, false), VmKey::MemoryMax),
    (option("--balloon", "BOOL", Kind::Flag, false), VmKey::Balloon),
    (option("--steal-time", "BOOL", Kind::Flag, false), VmKey::StealTime),
    (option("--cmdline", "TEXT", Kind::Other, false), VmKey::Cmdline),
    (option("--initrd", "FILE", Kind::File, false), VmKey::Initrd),
    (option("--module", "FILE", Kind::File, false), VmKey::Modules),
    (option("--quantum", "TIME", Kind::Other, false), VmKey::Quantum),
    (option("--weight", "N", Kind::Other, false), VmKey::Weight),
    (option("--cap", "PERCENT", Kind::Other, false), VmKey::Cap),
    (option("--reservation", "PERCENT", Kind::Other, false), VmKey::Reservation),
    (option("--priority", "N", Kind::Other, false), VmKey::Priority),
    (option("--affinity", "CPUS", Kind::Other, false), VmKey::Affinity),
    (option("--group", "GROUP", Kind::Group, false), VmKey::Group),
    (option("--after", "NAMES", Kind::Names, false), VmKey::After),
    (option("--stop-grace", "TIME", Kind::Other, false), VmKey::StopGrace),
    (option("--on-fault", "POLICY", Kind::OnFault, false), VmKey::OnFault),
    (option("--restart-limit", "'N in TIME'", Kind::Other, false), VmKey::RestartLimit),
    (option("--access-loop", "COUNT", Kind::Other, false), VmKey::AccessLoop),
    (option("--watchdog", "TIME", Kind::Other, false), VmKey::Watchdog),
    (option("--format", "FORMAT", Kind::Format, false), VmKey::Format),
    (option("--load-address", "ADDRESS", Kind::Other, false), VmKey::LoadAddress),
    (option("--entry", "ADDRESS", Kind::Other, false), VmKey::Entry),
];

/// The options alone, as a [`Spec`](super::table::Spec) wants them.
pub(super) static CREATE_OPTIONS: [Opt; CREATE.len()] = {
    let mut options = [const { option("", "", Kind::Other, false) }; CREATE.len()];
    let mut index = 0;
    while index < CREATE.len() {
        let from = &CREATE[index].0;
        options[index] = Opt { name: from.name, value: from.value, required: from.required };
        index += 1;
    }
    options
};

/// The image formats, for completion.
pub(super) const FORMATS: [&str; 7] = ["auto", "linux", "pvh", "multiboot", "flat16", "flat32", "flat64"];

/// Makes the command of what was given.
pub(super) fn create(given: &Arguments) -> Result<Command, String> {
    let image = given.option("--image").unwrap_or_default();
    let name = given.first();
    let mut vm = VmConfig::new(&name, image).map_err(|error| {
        let name_is_wrong = VmConfig::new("name", image).is_ok();
        if name_is_wrong { format!("{name}: {error}") } else { format!("--image {image}: {error}") }
    })?;
    let settings: Vec<_> = CREATE
        .iter()
        .flat_map(|(option, key)| given.options(option.name).map(move |text| (option, *key, text)))
        .collect();
    for (option, key, text) in settings {
        // One option may name several VMs.
        let parts: Vec<&str> = if key == VmKey::After { text.split(',').collect() } else { Vec::from([text]) };
        for part in parts {
            vm.set(key, part).map_err(|error| format!("{} {text}: {error}", option.name))?;
        }
    }
    vm.check().map_err(|(wrong, error)| {
        let option = CREATE.iter().find(|(_, key)| *key == wrong).map_or("", |(option, _)| option.name);
        format!("{option}: {error}")
    })?;
    Ok(Command::VmCreate(Box::new(vm)))
}
