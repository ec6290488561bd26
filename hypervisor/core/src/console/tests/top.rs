//! `top`: rates of two looks, and its screen on a model terminal.

use crate::console::{TopSample, TopScreen, TopSnapshot, TopView, leaves_top, render};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

/// As much of a VT100 as `top` uses. Anything else is a mistake.
struct Terminal {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    cursor_shows: bool,
}

impl Terminal {
    fn new(columns: usize, rows: usize, filled_with: char) -> Self {
        Self { cells: alloc::vec![alloc::vec![filled_with; columns]; rows], row: 0, column: 0, cursor_shows: true }
    }

    fn write(&mut self, bytes: &str) {
        let mut characters = bytes.chars();
        while let Some(character) = characters.next() {
            match character {
                '\x1b' => {
                    assert_eq!(characters.next(), Some('['));
                    let mut sequence = String::new();
                    for character in characters.by_ref() {
                        sequence.push(character);
                        if character.is_ascii_alphabetic() {
                            break;
                        }
                    }
                    self.control(&sequence);
                }
                '\r' => self.column = 0,
                '\n' => {
                    self.row += 1;
                    assert!(self.row < self.cells.len(), "the screen scrolls");
                }
                _ => {
                    assert!(!character.is_control() && self.column + 1 < self.cells[0].len(), "{character:?} wraps");
                    self.cells[self.row][self.column] = character;
                    self.column += 1;
                }
            }
        }
    }

    fn control(&mut self, sequence: &str) {
        match sequence {
            "H" => (self.row, self.column) = (0, 0),
            "K" => self.cells[self.row][self.column..].fill(' '),
            "J" => {
                self.control("K");
                self.cells[self.row + 1..].iter_mut().for_each(|row| row.fill(' '));
            }
            "2J" => self.cells.iter_mut().for_each(|row| row.fill(' ')),
            "?25l" => self.cursor_shows = false,
            "?25h" => self.cursor_shows = true,
            _ => panic!("unknown sequence {sequence:?}"),
        }
    }

    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_string()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }
}

fn sample(name: &str, cpu_time_us: u64, exits: u64) -> TopSample {
    TopSample {
        name: name.into(),
        starts: 1,
        state: "running",
        vcpus: 2,
        cpu_time_us,
        due_millicpu: Some(666),
        populated_bytes: 40 << 20,
        target_bytes: 64 << 20,
        exits,
        wait_p99_ns: 12_345,
    }
}

fn snapshot(at_us: u64, cpus_busy_us: &[u64], vms: Vec<TopSample>) -> TopSnapshot {
    TopSnapshot {
        at_us,
        policy: "fair",
        memory_bytes: 400 << 20,
        free_bytes: 300 << 20,
        cpus_busy_us: cpus_busy_us.to_vec(),
        vms,
    }
}

fn two_looks() -> (TopSnapshot, TopSnapshot) {
    let earlier = snapshot(
        3_600_000_000,
        &[1_000_000, 5_000_000],
        [sample("idle", 7_000, 10), sample("web-replica-17", 1_000_000, 5_000), sample("again", 9_000_000, 90_000)]
            .into(),
    );
    let mut again = sample("again", 500_000, 1_000);
    again.starts = 2;
    again.state = "paused (memory)";
    again.due_millicpu = None;
    let now = snapshot(
        3_602_000_000,
        &[2_500_000, 7_100_000],
        [sample("idle", 7_000, 10), sample("web-replica-17", 2_334_000, 6_001), again].into(),
    );
    (earlier, now)
}

const SCREEN: &str = "\
up 1:00:02, policy fair, 3 VMs (2 used a CPU), memory 100M of 400M
cpu0    75.0%  cpu1   100.0%
NAME          STATE      VCPU  CPU%  DUE%  MEM  TARGET  EXITS/s  WAIT P99
web-re~ca-17  running       2  66.7  66.6  40M     64M      501    12.3us
again         pause:mem     2  25.0     -  40M     64M      500    12.3us
idle          running       2   0.0  66.6  40M     64M        0    12.3us
q or Ctrl-C leaves";

#[test]
fn rates_are_of_the_time_between_the_looks() {
    let (earlier, now) = two_looks();
    let view = TopView::between(&earlier, &now);
    assert_eq!(view.cpus_busy_millicpu, [750, 1000], "a CPU is never busier than all the time");
    let rows: Vec<(&str, u64, u64)> =
        view.vms.iter().map(|vm| (vm.name.as_str(), vm.cpu_millicpu, vm.exits_per_s)).collect();
    // "again" was started anew in between, so its sums are all of this interval. 1001 exits in 2 s are 501 per second.
    assert_eq!(rows, [("web-replica-17", 667, 501), ("again", 250, 500), ("idle", 0, 0)]);
    let first = TopView::between(&TopSnapshot::default(), &now);
    assert_eq!((first.interval_us, first.cpus_busy_millicpu[1]), (3_602_000_000, 2), "since boot");
    assert_eq!(TopView::between(&now, &now).vms[0].exits_per_s, 0, "no time, no rate");
}

#[test]
fn the_screen_is_drawn_in_place_and_given_back() {
    let (earlier, now) = two_looks();
    let view = TopView::between(&earlier, &now);
    let mut terminal = Terminal::new(80, 24, '#');
    let mut screen = TopScreen::default();
    terminal.write(&screen.draw(&view));
    assert_eq!(terminal.lines().join("\n"), SCREEN);
    assert!(!terminal.cursor_shows);
    let again = screen.draw(&view);
    assert!(!again.contains("\x1b[2J"), "a redraw does not flicker");
    terminal.write(&again);
    assert_eq!(terminal.lines().join("\n"), SCREEN);
    terminal.write(&screen.leave());
    assert_eq!((terminal.lines().len(), terminal.cursor_shows, terminal.row, terminal.column), (0, true, 0, 0));
    assert!(screen.draw(&view).contains("\x1b[2J"), "it is entered anew");
}

#[test]
fn once_is_the_screen_without_its_last_line() {
    let (earlier, now) = two_looks();
    let view = TopView::between(&earlier, &now);
    assert_eq!(render(&view, false), SCREEN.replace("q or Ctrl-C leaves", ""));
    let json: serde_json::Value = serde_json::from_str(&render(&view, true)).unwrap();
    assert_eq!((&json["interval_us"], &json["vms"][0]["exits_per_s"]), (&2_000_000.into(), &501.into()));
}

#[test]
fn many_vms_and_cpus_are_cut_to_the_screen_and_counted() {
    let vms = (0..100).map(|index| sample(&format!("vm{index:03}"), 100 - index, 1)).collect();
    let view = TopView::between(&TopSnapshot::default(), &snapshot(1_000, &[1; 256], vms));
    let mut terminal = Terminal::new(80, 24, '#');
    terminal.write(&TopScreen::default().draw(&view));
    let lines = terminal.lines();
    assert_eq!(lines.len(), 24);
    assert!(lines[13].starts_with("vm000"), "{lines:#?}");
    assert_eq!(lines[22], "and 91 VMs more that used less; 'top --once' shows all", "{lines:#?}");
    assert!(lines[21].starts_with("vm008"), "{lines:#?}");
    assert_eq!(lines[23], "q or Ctrl-C leaves");
}

#[test]
fn busy_figures_fit_80_columns() {
    let mut vm = sample("a-name-of-full-length-00000001", 6_400_000_000, 2_000_000_000);
    vm.state = "paused (memory)";
    vm.vcpus = 64;
    vm.due_millicpu = Some(64_000);
    (vm.populated_bytes, vm.target_bytes) = (15 << 30, 16 << 30);
    let view = TopView::between(&TopSnapshot::default(), &snapshot(100_000_000, &[], [vm].into()));
    let mut terminal = Terminal::new(80, 24, ' ');
    terminal.write(&TopScreen::default().draw(&view));
    assert!(terminal.lines()[2].ends_with("12.3us"), "{:#?}", terminal.lines());
}

#[test]
fn q_and_ctrl_c_leave() {
    let leaving: Vec<u8> = (0..=u8::MAX).filter(|&byte| leaves_top(byte)).collect();
    assert_eq!(leaving, [0x03, b'Q', b'q']);
}

proptest! {
    #[test]
    fn nothing_of_an_earlier_screen_stays(
        looks in proptest::collection::vec(
            (any::<u64>(), proptest::collection::vec(any::<u64>(), 0..40), proptest::collection::vec(("\\PC{0,31}|[a-z\u{1b}\n]{0,9}", any::<[u64; 3]>()), 0..40)),
            2..5,
        ),
        columns in 20usize..140,
        rows in 4usize..50,
    ) {
        let mut screen = TopScreen::new(columns, rows);
        let mut terminal = Terminal::new(columns, rows, '#');
        let mut earlier = TopSnapshot::default();
        for (at_us, cpus, vms) in looks {
            let vms = vms.into_iter().map(|(name, [cpu, exits, wait])| {
                TopSample { wait_p99_ns: wait, target_bytes: cpu, due_millicpu: Some(wait), ..sample(&name, cpu, exits) }
            });
            let now = snapshot(at_us, &cpus, vms.collect());
            let view = TopView::between(&earlier, &now);
            terminal.write(&screen.draw(&view));
            let mut fresh = Terminal::new(columns, rows, ' ');
            fresh.write(&TopScreen::new(columns, rows).draw(&view));
            prop_assert_eq!(terminal.lines(), fresh.lines());
            let last = terminal.lines().last().cloned().unwrap_or_default();
            prop_assert!("q or Ctrl-C leaves".starts_with(&last) && last.len() > 17);
            earlier = now;
        }
    }
}
