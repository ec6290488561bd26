//! The serial console: bytes in, commands out; answers in, text or JSON out.
//!
//! [`LineEditor`] makes lines of bytes, [`Request::parse`] makes a [`Command`] of a line, the kernel carries it out and
//! fills one of the structs in [`view`], and [`render`] writes that. One table (`table.rs`) drives parsing, help and
//! completion. Nothing here touches a device: bytes to echo go to a [`Sink`].

mod command;
mod complete;
mod create;
mod editor;
mod help;
mod history;
mod keys;
mod render;
mod table;
#[cfg(test)]
mod tests;
mod top;
pub mod view;
mod words;

pub use command::{Command, ParseError, Request};
pub use complete::{CommandCompleter, Names};
pub use editor::{Completer, Completion, LineEditor, Sink};
pub use help::help;
pub use render::{View, render, render_error};
pub use top::{TopRow, TopSample, TopScreen, TopSnapshot, TopView, leaves_top};
