//! Tests of the console: commands and completion, the line editor on a model terminal, the answers.

mod answers;
mod commands;
mod editing;
mod faults;
mod top;
