//! From the text of a `lamina.toml` to a [`Config`], with the line of every mistake.
//!
//! The `toml` crate parses into tables whose keys and values know their place in the text; walking these, rather than
//! deriving a deserializer, is what lets every error name the VM, the key, the value as written and what is allowed.

use super::{
    Config, ConfigError, Form, HostConfig, HostKey, SetError, ValueError, VmConfig, VmKey, check_set, nearest,
};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// The longest piece of the file that an error repeats, in characters.
const QUOTE_LEN_MAX: usize = 60;

type Keyed<'a, 'i> = (&'a Spanned<Cow<'i, str>>, &'a Spanned<DeValue<'i>>);

pub(super) fn parse(text: &str) -> Result<Config, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| {
        // The parser's message may take several lines; the operator gets one.
        let message: Vec<&str> = error.message().split_whitespace().collect();
        let line = line_of(text, error.span().map_or(text.len(), |span| span.start));
        ConfigError { line, message: message.join(" ") }
    })?;
    let mut config = Config::default();
    for keyed in in_file_order(document.get_ref()) {
        let source = Source { text, subject: String::new() };
        match &**keyed.0.get_ref() {
            "host" => config.host = host(text, keyed)?,
            "vm" => config.vms = vms(text, keyed)?,
            unknown => return Err(source.unknown_key(keyed, unknown, &["host", "vm"])),
        }
    }
    Ok(config)
}

fn host(text: &str, keyed: Keyed<'_, '_>) -> Result<HostConfig, ConfigError> {
    let source = Source { text, subject: String::from("host: ") };
    let DeValue::Table(table) = keyed.1.get_ref() else {
        return Err(source.at(keyed.0.span(), "write [host] on a line of its own, and its keys below it"));
    };
    let mut host = HostConfig::default();
    for keyed in in_file_order(table) {
        let key = source.key(keyed, HostKey::ALL, HostKey::name)?;
        source.set(keyed, key.form(), |text| host.set(key, text))?;
    }
    Ok(host)
}

fn vms(text: &str, keyed: Keyed<'_, '_>) -> Result<Vec<VmConfig>, ConfigError> {
    let source = Source { text, subject: String::new() };
    let wrong = |span| source.at(span, "vm is a list of tables; write [[vm]] on a line of its own before each VM");
    let DeValue::Array(tables) = keyed.1.get_ref() else {
        return Err(wrong(keyed.0.span()));
    };
    let mut vms: Vec<(VmConfig, usize)> = Vec::new();
    for (index, element) in tables.iter().enumerate() {
        let DeValue::Table(table) = element.get_ref() else {
            return Err(wrong(element.span()));
        };
        let source = Source { text, subject: subject(table, index) };
        let vm = vm(&source, table, element.span())?;
        let at = table.get("name").map_or(element.span(), Spanned::span);
        if let Some((_, line)) = vms.iter().find(|(earlier, _)| earlier.name == vm.name) {
            return Err(source.at(at, &format!("this name is taken by the VM in line {line}; give each VM its own")));
        }
        vms.push((vm, line_of(text, at.start)));
    }
    let vms: Vec<VmConfig> = vms.into_iter().map(|(vm, _)| vm).collect();
    check_together(&source, &vms, tables)?;
    Ok(vms)
}

/// Checks what no VM can check alone; a mistake is told with the line of the key that makes it.
fn check_together(source: &Source<'_>, vms: &[VmConfig], tables: &DeArray<'_>) -> Result<(), ConfigError> {
    let machines: Vec<(usize, VmConfig)> =
        vms.iter().enumerate().flat_map(|(index, vm)| vm.expand().into_iter().map(move |vm| (index, vm))).collect();
    let (owners, machines): (Vec<usize>, Vec<VmConfig>) = machines.into_iter().unzip();
    let Err(error) = check_set(&machines) else { return Ok(()) };
    let owner = owners.get(error.vm()).copied().unwrap_or(0);
    let key = match error {
        SetError::NameTaken { .. } => VmKey::Name,
        SetError::GroupIsVm { .. } => VmKey::Group,
        SetError::Unknown { .. } | SetError::Circle { .. } => VmKey::After,
    };
    let element = tables.get(owner);
    let table = element.and_then(|element| element.get_ref().as_table());
    let at = table.and_then(|table| table.get(key.name()).or_else(|| table.get("name"))).or(element);
    let subject = table.map(|table| subject(table, owner)).unwrap_or_default();
    let source = Source { text: source.text, subject };
    Err(source.at(at.map_or(0..0, Spanned::span), &format!("{error}")))
}

/// How errors speak of the VM: by its name, or by its place in the file where it has none.
fn subject(table: &DeTable<'_>, index: usize) -> String {
    match table.get("name").and_then(|name| name.get_ref().as_str()) {
        Some(name) => format!("vm {}: ", one_line(&format!("{name:?}"))),
        None => format!("vm number {}: ", index + 1),
    }
}

fn vm(source: &Source<'_>, table: &DeTable<'_>, span: Range<usize>) -> Result<VmConfig, ConfigError> {
    let mut vm = VmConfig::blank();
    for keyed in in_file_order(table) {
        let key = source.key(keyed, VmKey::ALL, VmKey::name)?;
        source.set(keyed, key.form(), |text| vm.set(key, text))?;
    }
    if vm.name.is_empty() {
        return Err(source.at(span, "name is missing; write name = \"NAME\""));
    }
    if vm.image.is_empty() {
        return Err(source.at(span, "image is missing; write image = \"FILE\", a file of the boot image's ramdisk"));
    }
    vm.check().map_err(|(key, error)| match table.get_key_value(key.name()) {
        Some(keyed) => source.value(keyed, &error),
        None => source.at(span, &format!("{}: {error}", key.name())),
    })?;
    Ok(vm)
}

/// The entries of a table, topmost in the file first, so that the first mistake is the one reported.
fn in_file_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Keyed<'a, 'i>> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// Where errors are found and whom they concern.
struct Source<'t> {
    text: &'t str,
    /// `vm "web": `, or empty.
    subject: String,
}

impl Source<'_> {
    /// Hands a value to its key's setter as text: once, or for a list once for each element.
    fn set(
        &self,
        keyed: Keyed<'_, '_>,
        form: Form,
        mut set: impl FnMut(&str) -> Result<(), ValueError>,
    ) -> Result<(), ConfigError> {
        let wrong_type = || self.at(keyed.1.span(), &format!("{}: write {}", self.quote(keyed), form.allowed()));
        if form == Form::List {
            let elements = keyed.1.get_ref().as_array().ok_or_else(wrong_type)?;
            for element in elements {
                let text = element.get_ref().as_str().ok_or_else(wrong_type)?;
                set(text).map_err(|error| self.value((keyed.0, element), &error))?;
            }
            return Ok(());
        }
        let text = scalar(keyed.1.get_ref(), form).ok_or_else(wrong_type)?;
        set(&text).map_err(|error| self.value(keyed, &error))
    }

    fn key<K: Copy>(&self, keyed: Keyed<'_, '_>, all: &[K], name: fn(K) -> &'static str) -> Result<K, ConfigError> {
        let written = &**keyed.0.get_ref();
        all.iter().copied().find(|&key| name(key) == written).ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|&key| name(key)).collect();
            self.unknown_key(keyed, written, &names)
        })
    }

    fn unknown_key(&self, keyed: Keyed<'_, '_>, written: &str, allowed: &[&str]) -> ConfigError {
        let mut message = format!("unknown key {}", one_line(&format!("{written:?}")));
        match nearest(written, allowed.iter().copied()) {
            Some(near) => message.push_str(&format!("; did you mean {near}?")),
            None => message.push_str(&format!("; allowed are {}", allowed.join(", "))),
        }
        self.at(keyed.0.span(), &message)
    }

    fn value(&self, keyed: Keyed<'_, '_>, error: &ValueError) -> ConfigError {
        self.at(keyed.1.span(), &format!("{}: {error}", self.quote(keyed)))
    }

    /// `key = value`, the value as it is written in the file.
    fn quote(&self, keyed: Keyed<'_, '_>) -> String {
        let value = self.text.get(keyed.1.span()).unwrap_or_default();
        format!("{} = {}", one_line(keyed.0.get_ref()), one_line(value))
    }

    fn at(&self, span: Range<usize>, message: &str) -> ConfigError {
        ConfigError { line: line_of(self.text, span.start), message: format!("{}{message}", self.subject) }
    }
}

/// The text of a value that is no list, if it is of the form.
fn scalar<'a>(value: &'a DeValue<'_>, form: Form) -> Option<Cow<'a, str>> {
    match (value, form) {
        (
            DeValue::String(text),
            Form::Text | Form::Size | Form::Time | Form::Number | Form::NumberOr(_) | Form::Ratio,
        ) => Some(Cow::Borrowed(text)),
        (DeValue::Float(float), Form::Ratio) => Some(Cow::Borrowed(float.as_str())),
        (DeValue::Boolean(flag), Form::Flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        (DeValue::Integer(integer), Form::Size | Form::Number | Form::NumberOr(_) | Form::Ratio) => {
            // Whatever its base and sign, it becomes decimal text; the setter says what is wrong with it.
            let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok()?;
            Some(Cow::Owned(format!("{number}")))
        }
        _ => None,
    }
}

/// The line, from 1, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
}

/// A piece of the file on one line, cut where it is long.
fn one_line(text: &str) -> String {
    let mut line: String = text.chars().take(QUOTE_LEN_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(QUOTE_LEN_MAX).is_some() {
        line.push_str("...");
    }
    line
}
