//! Templates of families that publish none: their prompts are built by the Python code beside their weights.

/// A template with a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Builtin {
    /// As `--chat-template` takes it.
    pub name: &'static str,
    pub template: &'static str,
    /// Names of the tokens that end an answer, beside the model's own end tokens.
    pub end_tokens: &'static [&'static str],
}

const BUILTINS: [Builtin; 5] = [
    Builtin { name: "chatglm2", template: include_str!("builtin/chatglm2.jinja"), end_tokens: &[] },
    Builtin {
        name: "chatglm3",
        template: include_str!("builtin/chatglm3.jinja"),
        end_tokens: &["<|user|>", "<|observation|>"],
    },
    Builtin { name: "fingpt", template: include_str!("builtin/fingpt.jinja"), end_tokens: &[] },
    Builtin { name: "internlm", template: include_str!("builtin/internlm.jinja"), end_tokens: &["<eoa>"] },
    Builtin { name: "skywork", template: include_str!("builtin/skywork.jinja"), end_tokens: &["[SEP]"] },
];

impl Builtin {
    pub fn of(name: &str) -> Option<Builtin> {
        BUILTINS.into_iter().find(|builtin| builtin.name == name)
    }

    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILTINS.into_iter().map(|builtin| builtin.name)
    }
}
