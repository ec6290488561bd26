//! `lamina-hw`: what does.
#![no_std]
