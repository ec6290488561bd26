//! The operator's console: bytes typed, commands done, answers shown, between the turns of the guests.

use crate::logger;
use crate::run_loop::CpuFigures;
use crate::views;
use crate::vmm::Vmm;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::console::view::{DoneView, LogView};
use lamina_core::console::{Command, CommandCompleter, LineEditor, Names, Request, Sink, help, render, render_error};
use lamina_core::vm::Verb;
use lamina_hw::{power, serial};

/// Ctrl-], which detaches the terminal from a VM, as in telnet.
const DETACH: u8 = 0x1d;
const PROMPT: &str = "lamina> ";

/// The console.
pub(crate) struct ConsoleTask {
    editor: LineEditor,
    /// The VM that the terminal is attached to.
    attached: Option<u32>,
}

/// The host's serial line as an echo's target.
struct Terminal;

impl Sink for Terminal {
    fn write(&mut self, bytes: &[u8]) {
        serial::write(bytes);
    }
}

/// What can be completed: gathered only when Tab is typed.
struct VmmNames<'a>(&'a Vmm);

impl Names for VmmNames<'_> {
    fn vm_names(&self) -> Vec<String> {
        self.0.vms.iter().map(|vm| vm.config.name.clone()).collect()
    }

    fn files(&self) -> Vec<String> {
        self.0.ramdisk.as_ref().map(Ramdisk::names).unwrap_or_default()
    }
}

impl ConsoleTask {
    /// Shows the prompt; from here on the log gives way to it.
    pub(crate) fn start() -> Self {
        logger::defer();
        let mut editor = LineEditor::new(PROMPT);
        editor.show(&mut Terminal);
        Self { editor, attached: None }
    }

    /// Takes what was typed and shows what waits to be shown. The prompt is drawn once, when all else is on the screen.
    pub(crate) fn turn(&mut self, vmm: &mut Vmm, figures: &CpuFigures) {
        self.show_pending(vmm);
        while let Some(byte) = serial::read() {
            match self.attached {
                Some(id) => self.typed_for_vm(vmm, id, byte),
                None => self.typed(vmm, figures, byte),
            }
        }
        if self.attached.is_none() {
            self.editor.show(&mut Terminal);
        }
        for index in 0..vmm.vms.len() {
            if vmm.vms[index].pass_typed() {
                vmm.wake(vmm.vms[index].id);
            }
        }
    }

    /// Shows log lines, with the prompt out of their way. While the terminal is a VM's, they wait.
    fn show_pending(&mut self, vmm: &mut Vmm) {
        if let Some(id) = self.attached {
            if vmm.by_id(id).is_some_and(|vm| vm.state.is_alive()) {
                return;
            }
            self.detach(vmm, "the VM has ended");
        }
        self.print_pending();
    }

    /// Prints the log lines that wait, on the row that the prompt had.
    pub(crate) fn print_pending(&mut self) {
        let pending = logger::take_pending();
        if !pending.is_empty() {
            self.editor.hide(&mut Terminal);
            logger::print(&pending);
        }
    }

    fn typed_for_vm(&mut self, vmm: &mut Vmm, id: u32, byte: u8) {
        if byte == DETACH {
            self.detach(vmm, "detached");
        } else if let Some(vm) = vmm.by_id(id) {
            vm.type_byte(byte);
        }
    }

    fn detach(&mut self, vmm: &mut Vmm, why: &str) {
        if let Some(vm) = self.attached.take().and_then(|id| vmm.by_id(id)) {
            vm.port.set_attached(false);
            logger::print(&format!("\n[{}: {why}]\n", vm.config.name));
        }
    }

    fn typed(&mut self, vmm: &mut Vmm, figures: &CpuFigures, byte: u8) {
        let line = {
            let names = VmmNames(vmm);
            self.editor.feed(byte, &mut Terminal, &CommandCompleter::new(&names))
        };
        let Some(line) = line else { return };
        match Request::parse(&line) {
            Ok(Some(Request { command: Command::VmConsole { name }, json })) => match self.attach(vmm, &name) {
                Ok(()) => return,
                Err(error) => logger::print(&render_error(&error, json)),
            },
            Ok(Some(request)) => logger::print(&execute(vmm, figures, request)),
            Ok(None) => {}
            Err(error) => logger::print(&render_error(&error, error.json)),
        }
        self.print_pending();
    }

    fn attach(&mut self, vmm: &mut Vmm, name: &str) -> Result<(), String> {
        let vm = vmm.find(name)?;
        if !vm.state.is_alive() {
            return Err(format!(
                "vm {name} is {}; start it first, or see what it wrote with `vm log {name}`",
                vm.state
            ));
        }
        vm.port.set_attached(true);
        let id = vm.id;
        logger::print(&format!("[{name}: attached; Ctrl-] detaches]\n"));
        self.attached = Some(id);
        Ok(())
    }
}

/// Does a command; the answer as text to print.
fn execute(vmm: &mut Vmm, figures: &CpuFigures, request: Request) -> String {
    let Request { command, json } = request;
    let answer = match command {
        Command::Help { command } => help(command.as_deref()).map(|view| render(&view, json)),
        Command::VmList => Ok(render(&views::vm_list(vmm), json)),
        Command::VmInfo { name } => views::vm_info(vmm, &name).map(|view| render(&view, json)),
        Command::VmCreate(config) => {
            let name = config.name.clone();
            vmm.create(*config).map(|()| done(&format!("vm {name}: created; `vm start {name}` runs it"), json))
        }
        Command::VmVerb { verb, name } => vmm.verb(&name, verb).map(|()| done(&verb_done(verb, &name), json)),
        // The console task attaches by itself.
        Command::VmConsole { .. } => Ok(String::new()),
        Command::VmLog { name, tail } => vmm.find(&name).map(|vm| {
            let log = vm.port.log();
            render(&LogView::new(&name, &log.since(0), log.oldest(), tail), json)
        }),
        Command::VmTrace { name, exits } => vmm.find(&name).map(|vm| {
            vm.trace_exits = exits;
            done(&format!("vm {name}: its next start prints {exits} exits"), json)
        }),
        Command::Mem => Ok(render(&views::mem(vmm), json)),
        Command::Cpu => Ok(render(&views::cpu(vmm), json)),
        Command::Sched => Ok(render(&views::sched(vmm, figures), json)),
        Command::Stats { name } => views::stats(vmm, name.as_deref()).map(|view| render(&view, json)),
        Command::Dmesg { tail } => {
            let (bytes, lost) = logger::recent();
            Ok(render(&LogView::new("lamina", &bytes, lost, tail), json))
        }
        Command::Version => Ok(render(&views::version(vmm), json)),
        Command::Reboot => {
            logger::print("rebooting\n");
            power::reset(&vmm.platform)
        }
        Command::Poweroff => {
            logger::print("powering off\n");
            power::power_off(&vmm.platform)
        }
    };
    answer.unwrap_or_else(|error| render_error(&error, json))
}

fn done(what: &str, json: bool) -> String {
    render(&DoneView { done: what.into() }, json)
}

fn verb_done(verb: Verb, name: &str) -> String {
    match verb {
        Verb::Start => format!("vm {name}: started"),
        Verb::Stop => format!("vm {name}: power button pressed; `vm stop {name} --force` ends it at once"),
        Verb::ForceStop => format!("vm {name}: stopped"),
        Verb::Pause => format!("vm {name}: paused"),
        Verb::Resume => format!("vm {name}: resumed"),
        Verb::Reset => format!("vm {name}: reset"),
        Verb::Destroy => format!("vm {name}: destroyed"),
    }
}
