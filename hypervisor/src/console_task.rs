//! The operator's console: bytes typed, commands done, answers shown, between the turns of the guests.

use crate::hypervisor::Hypervisor;
use crate::logger;
use crate::manager::Manager;
use crate::views;
use crate::vmm::Vmm;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use lamina_core::boot::ramdisk::Ramdisk;
use lamina_core::console::view::{ConfigView, DoneView, FaultsView, LogView};
use lamina_core::console::{
    Command, CommandCompleter, LineEditor, Names, Request, Sink, TopScreen, TopSnapshot, TopView, help, leaves_top,
    render, render_error,
};
use lamina_core::resources::TargetChange;
use lamina_core::vm::Verb;
use lamina_hw::{mem, power, serial, time};

/// Ctrl-], which detaches the terminal from a VM, as in telnet.
const DETACH: u8 = 0x1d;
const PROMPT: &str = "lamina> ";
/// How often `top` draws its screen, in microseconds.
const TOP_PERIOD_US: u64 = 1_000_000;

/// The console.
pub(crate) struct ConsoleTask {
    editor: LineEditor,
    /// The VM that the terminal is attached to.
    attached: Option<u32>,
    /// The screen that is redrawn, while `top` has the terminal.
    top: Option<Top>,
}

/// A running `top`.
struct Top {
    screen: TopScreen,
    last: TopSnapshot,
    /// Host TSC at which it is drawn next.
    draw_at: u64,
}

/// The host's serial line as an echo's target.
struct Terminal;

impl Sink for Terminal {
    fn write(&mut self, bytes: &[u8]) {
        serial::write(bytes);
    }
}

/// What can be completed: gathered only when Tab is typed.
struct VmmNames(&'static Hypervisor);

impl Names for VmmNames {
    fn vm_names(&self) -> Vec<String> {
        self.0.manager.lock().vms.iter().map(|vm| vm.config.name.clone()).collect()
    }

    fn group_names(&self) -> Vec<String> {
        self.0.manager.lock().vms.iter().filter_map(|vm| vm.config.group.clone()).collect()
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
        Self { editor, attached: None, top: None }
    }

    /// The host TSC at which it has something to do, though nothing was typed.
    pub(crate) fn next_draw(&self) -> Option<u64> {
        self.top.as_ref().map(|top| top.draw_at)
    }

    /// Whether log lines are to be shown as they come: not on a screen, nor on a VM's terminal.
    pub(crate) fn waits_for_log(&self) -> bool {
        self.top.is_none() && self.attached.is_none()
    }

    /// Takes what was typed and shows what waits to be shown. The prompt is drawn once, when all else is on the screen.
    pub(crate) fn turn(&mut self, vmm: &mut Vmm<'_>) {
        self.show_pending(vmm);
        while let Some(byte) = serial::read() {
            if self.top.is_some() {
                self.typed_for_top(byte);
                continue;
            }
            match self.attached {
                Some(id) => self.typed_for_vm(vmm, id, byte),
                None => self.typed(vmm, byte),
            }
        }
        if self.top.is_some() {
            self.draw_top(vmm.hypervisor);
        } else if self.attached.is_none() {
            self.editor.show(&mut Terminal);
        }
        pass_typed(&mut vmm.hypervisor.manager.lock());
    }

    /// Draws the screen of `top` when it is time.
    fn draw_top(&mut self, hypervisor: &Hypervisor) {
        let Some(top) = self.top.as_mut().filter(|top| top.draw_at <= time::now()) else { return };
        let snapshot = locked(hypervisor, |manager| views::top_snapshot(hypervisor, manager));
        let screen = top.screen.draw(&TopView::between(&top.last, &snapshot));
        serial::write(screen.as_bytes());
        top.last = snapshot;
        top.draw_at = time::now().saturating_add(hypervisor.us_to_ticks(TOP_PERIOD_US));
    }

    fn typed_for_top(&mut self, byte: u8) {
        if leaves_top(byte)
            && let Some(mut top) = self.top.take()
        {
            serial::write(top.screen.leave().as_bytes());
            self.print_pending();
        }
    }

    /// Shows log lines, with the prompt out of their way. While the terminal is a VM's, they wait.
    fn show_pending(&mut self, vmm: &Vmm<'_>) {
        if self.top.is_some() && !logger::is_full() {
            return;
        }
        if let Some(id) = self.attached {
            let alive = vmm.with_vm(id, |vm| vm.state.is_alive()) == Some(true);
            if alive && !logger::is_full() {
                return;
            }
            if !alive {
                self.detach(vmm, "the VM has ended");
            }
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

    fn typed_for_vm(&mut self, vmm: &Vmm<'_>, id: u32, byte: u8) {
        if byte == DETACH {
            self.detach(vmm, "detached");
        } else {
            vmm.with_vm(id, |vm| vm.type_byte(byte));
        }
    }

    fn detach(&mut self, vmm: &Vmm<'_>, why: &str) {
        let Some(id) = self.attached.take() else { return };
        let name = vmm.with_vm(id, |vm| {
            vm.port.lock().set_attached(false);
            vm.config.name.clone()
        });
        if let Some(name) = name {
            logger::print(&format!("\n[{name}: {why}]\n"));
        }
    }

    fn typed(&mut self, vmm: &mut Vmm<'_>, byte: u8) {
        let line = {
            let names = VmmNames(vmm.hypervisor);
            self.editor.feed(byte, &mut Terminal, &CommandCompleter::new(&names))
        };
        let Some(line) = line else { return };
        match Request::parse(&line) {
            Ok(Some(Request { command: Command::VmConsole { name }, json })) => match self.attach(vmm, &name) {
                Ok(()) => return,
                Err(error) => logger::print(&render_error(&error, json)),
            },
            Ok(Some(Request { command: Command::Top { once: false }, json: false })) => {
                self.top = Some(Top { screen: TopScreen::default(), last: TopSnapshot::default(), draw_at: 0 });
                return;
            }
            Ok(Some(request)) => logger::print(&execute(vmm, request)),
            Ok(None) => {}
            Err(error) => logger::print(&render_error(&error, error.json)),
        }
        self.print_pending();
    }

    fn attach(&mut self, vmm: &Vmm<'_>, name: &str) -> Result<(), String> {
        let id = vmm.find(name)?;
        let attached = vmm.with_vm(id, |vm| {
            if !vm.state.is_alive() {
                return Err(format!(
                    "vm {name} is {}; start it first, or see what it wrote with `vm log {name}`",
                    vm.state
                ));
            }
            vm.port.lock().set_attached(true);
            Ok(())
        });
        attached.unwrap_or(Ok(()))?;
        logger::print(&format!("[{name}: attached; Ctrl-] detaches]\n"));
        self.attached = Some(id);
        Ok(())
    }
}

/// Hands the guests what was typed for them.
fn pass_typed(manager: &mut Manager) {
    let passed: Vec<u32> = manager.vms.iter_mut().filter_map(|vm| vm.pass_typed().then_some(vm.id)).collect();
    for vm in passed {
        manager.notify_vcpu_0(vm);
    }
}

/// What `look` finds in the manager: shown once the lock is let go.
fn locked<T>(hypervisor: &Hypervisor, look: impl FnOnce(&mut Manager) -> T) -> T {
    look(&mut hypervisor.manager.lock())
}

/// Does a command; the answer as text to print.
fn execute(vmm: &mut Vmm<'_>, request: Request) -> String {
    let Request { command, json } = request;
    let hypervisor = vmm.hypervisor;
    let answer = match command {
        Command::Help { command } => help(command.as_deref()).map(|view| render(&view, json)),
        Command::VmList => Ok(render(&locked(hypervisor, |manager| views::vm_list(hypervisor, manager)), json)),
        Command::VmInfo { name } => vmm.find(&name).map(|id| {
            let view = locked(hypervisor, |manager| views::vm_info(hypervisor, manager, id));
            view.map_or_else(String::new, |view| render(&view, json))
        }),
        Command::VmCreate(config) => vmm.create(&config).map(|names| {
            let first = names.first().map_or("", String::as_str);
            done(&format!("vm {}: created; `vm start {first}` runs it", names.join(", ")), json)
        }),
        Command::VmVerb { verb, targets, grace_us } => {
            vmm.verb(&targets, verb, grace_us).map(|names| done(&verb_done(verb, &names), json))
        }
        Command::VmSet { name, change } => {
            vmm.set(&name, &change).map(|changes| done(&set_done(&name, &changes), json))
        }
        Command::VmPin { name, vcpu, cpus } => {
            let whose = vcpu.map_or_else(|| name.clone(), |vcpu| format!("{name}/{vcpu}"));
            vmm.pin(&name, vcpu, cpus).map(|()| done(&format!("vm {whose}: runs on CPUs {cpus}"), json))
        }
        // The console task attaches by itself.
        Command::VmConsole { .. } => Ok(String::new()),
        Command::VmLog { name, tail } => vmm.find(&name).map(|id| {
            let log = vmm.with_vm(id, |vm| {
                let port = vm.port.lock();
                (port.log().since(0), port.log().oldest())
            });
            let (bytes, lost) = log.unwrap_or_default();
            render(&LogView::new(&name, &bytes, lost, tail), json)
        }),
        Command::VmFaults { name, number } => faults(vmm, name, number).map(|view| render(&view, json)),
        Command::VmTrace { name, exits } => vmm.find(&name).map(|id| {
            vmm.with_vm(id, |vm| vm.trace_exits = exits);
            done(&format!("vm {name}: its next start prints {exits} exits"), json)
        }),
        Command::Mem => Ok(render(&locked(hypervisor, |manager| views::mem(manager)), json)),
        Command::Cpu => Ok(render(&locked(hypervisor, |manager| views::cpu(hypervisor, manager, vmm.root)), json)),
        Command::DebugPanic => panic!("asked for by `debug panic`"),
        Command::Security => Ok(render(&views::security(), json)),
        Command::Sched => Ok(render(&locked(hypervisor, |manager| views::sched(hypervisor, manager)), json)),
        Command::SchedPolicy { policy } => {
            vmm.set_policy(policy);
            Ok(done(&format!("sched: the policy is {} now", policy.name()), json))
        }
        Command::Alloc => Ok(render(&locked(hypervisor, |manager| views::alloc(hypervisor, manager)), json)),
        Command::AllocStrategy { strategy } => {
            vmm.set_strategy(strategy);
            Ok(done(&format!("alloc: the strategy is {} now", strategy.name()), json))
        }
        Command::AllocOvercommit { percent } => vmm.set_overcommit(percent).map(|()| {
            let (whole, hundredths) = (percent / 100, percent % 100);
            done(&format!("alloc: memory may be promised {whole}.{hundredths:02} times now"), json)
        }),
        // What has no earlier look to compare with is measured from the start.
        Command::Top { .. } => {
            let snapshot = locked(hypervisor, |manager| views::top_snapshot(hypervisor, manager));
            Ok(render(&TopView::between(&TopSnapshot::default(), &snapshot), json))
        }
        Command::State => Ok(render(&locked(hypervisor, |manager| views::state(hypervisor, manager, vmm.root)), json)),
        Command::ConfigSave => {
            Ok(render(&ConfigView::new(&locked(hypervisor, |manager| views::config(hypervisor, manager))), json))
        }
        Command::Stats { name } => match name {
            Some(name) => {
                vmm.find(&name).map(|id| render(&locked(hypervisor, |manager| views::stats(manager, Some(id))), json))
            }
            None => Ok(render(&locked(hypervisor, |manager| views::stats(manager, None)), json)),
        },
        Command::Dmesg { tail } => {
            let (bytes, lost) = logger::recent();
            Ok(render(&LogView::new("lamina", &bytes, lost, tail), json))
        }
        Command::RefuseFrames { nth, command } => return refusing(vmm, nth, Request { command: *command, json }),
        Command::InjectFault { name, kind } => vmm
            .inject_fault(&name, kind)
            .map(|()| done(&format!("vm {name}: has a fault of kind {kind} at its next VM entry"), json)),
        Command::Version => Ok(render(&views::version(hypervisor), json)),
        Command::Reboot => {
            logger::print("rebooting\n");
            power::reset(&hypervisor.platform)
        }
        Command::Poweroff => {
            logger::print("powering off\n");
            power::power_off(&hypervisor.platform)
        }
    };
    answer.unwrap_or_else(|error| render_error(&error, json))
}

/// The reports of a VM's faults.
fn faults(vmm: &Vmm<'_>, name: String, number: Option<u64>) -> Result<FaultsView, String> {
    let id = vmm.find(&name)?;
    let kept = vmm.with_vm(id, |vm| (vm.faults.total(), vm.faults.reports().cloned().collect::<Vec<_>>()));
    let (total, reports) = kept.unwrap_or_default();
    if let Some(number) = number
        && reports.iter().all(|report| report.number != number)
    {
        return Err(format!(
            "vm {name}: there is no report of fault {number}; it had {total}, the last {} are kept",
            reports.len()
        ));
    }
    Ok(FaultsView::new(name, total, &reports, number))
}

/// Does a command with its `nth` request for frames refused. The order is taken back with the command, so that none is left on;
/// while it stands, a guest that touches a page on another CPU makes a request too.
fn refusing(vmm: &mut Vmm<'_>, nth: u64, request: Request) -> String {
    let json = request.json;
    mem::refuse_frames(Some(nth));
    let answer = execute(vmm, request);
    match mem::refuse_frames(None).filter(|_| !json) {
        None => answer,
        Some(left) => format!("{answer}debug: {} requests for frames were made, none of them refused\n", nth - left),
    }
}

fn done(what: &str, json: bool) -> String {
    render(&DoneView { done: what.into() }, json)
}

/// What `vm set` did: changes of memory that take their time are told.
fn set_done(name: &str, changes: &[TargetChange]) -> String {
    let mut line = format!("vm {name}: set");
    for change in changes.iter().filter(|change| change.pending_bytes > 0) {
        line += &format!("; {} is to give back {} MiB", change.name, change.pending_bytes.div_ceil(1 << 20));
    }
    line
}

fn verb_done(verb: Verb, names: &[String]) -> String {
    let vms = names.join(", ");
    match verb {
        Verb::Start => format!("vm {vms}: started"),
        Verb::Stop => format!("vm {vms}: power button pressed; `vm stop {vms} --force` ends it at once"),
        Verb::ForceStop => format!("vm {vms}: stopped"),
        Verb::Pause => format!("vm {vms}: paused"),
        Verb::Resume => format!("vm {vms}: resumed"),
        Verb::Reset => format!("vm {vms}: reset"),
        Verb::Destroy => format!("vm {vms}: destroyed"),
    }
}
