//! The command line: a client of this machine's node.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
