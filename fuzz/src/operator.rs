//! What an operator types.

use lamina_core::console::{CommandCompleter, LineEditor, Names, Request, Sink, render_error};

use crate::files::assert_one_line;

struct Nowhere;

impl Sink for Nowhere {
    fn write(&mut self, _: &[u8]) {}
}

struct SomeNames;

impl Names for SomeNames {
    fn vm_names(&self) -> Vec<String> {
        vec!["web".into(), "web-2".into(), "db".into()]
    }

    fn group_names(&self) -> Vec<String> {
        vec!["front".into()]
    }

    fn files(&self) -> Vec<String> {
        vec!["linux/vmlinuz".into(), "hello".into()]
    }
}

/// Keys, with completion; each line is read as a command.
pub fn console(bytes: &[u8]) {
    let mut editor = LineEditor::new("lamina> ");
    editor.show(&mut Nowhere);
    for (index, &byte) in bytes.iter().enumerate() {
        if let Some(line) = editor.feed(byte, &mut Nowhere, &CommandCompleter::new(&SomeNames)) {
            assert!(line.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "no printable line: {line:?}");
            if let Err(error) = Request::parse(&line) {
                assert_one_line(&error);
                let _ = render_error(&error, error.json);
            }
        }
        if index % 64 == 63 {
            // Other output comes in between.
            editor.hide(&mut Nowhere);
            editor.show(&mut Nowhere);
        }
    }
}
