//! One answer: how it is sampled, how it is written as it comes, and how fast it was.

use std::{
    future::Future,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, builder::BoolishValueParser};
use mosu::{
    ChatRequest, ChatTemplate, Engine, Event, Finish, GenerationStream, ModelSource, Request,
    SamplingDefaults, SamplingParams, StopConditions,
};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{
    exit::Failure,
    model_args::GenerationConfig,
    terminal::Screen,
    units::{self, parse_count, parse_number},
};

/// How answers are sampled.
#[derive(Args, Debug)]
#[command(next_help_heading = "Answer")]
pub struct AnswerArgs {
    /// Most tokens of an answer [default: as many as the context holds]
    #[arg(long, env = "MOSU_MAX_TOKENS", value_name = "N", value_parser = parse_count)]
    max_tokens: Option<usize>,
    /// 0 takes the most probable token, so the same question has the same answer; up to 2 draws more freely [default:
    /// the model's, else 0]
    #[arg(long, env = "MOSU_TEMPERATURE", value_name = "T",
        value_parser = |text: &str| parse_number(text, 0.0..=2.0))]
    temperature: Option<f32>,
    /// Draw from the K most probable tokens; 0 is all [default: the model's, else 0]
    #[arg(long, env = "MOSU_TOP_K", value_name = "K")]
    top_k: Option<u32>,
    /// Draw from the most probable tokens that together have probability P [default: the model's, else 1]
    #[arg(long, env = "MOSU_TOP_P", value_name = "P",
        value_parser = |text: &str| parse_number(text, 0.0..=1.0))]
    top_p: Option<f32>,
    /// Drop tokens less probable than P times the most probable [default: the model's, else 0]
    #[arg(long, env = "MOSU_MIN_P", value_name = "P",
        value_parser = |text: &str| parse_number(text, 0.0..=1.0))]
    min_p: Option<f32>,
    /// Take the model's temperature, top-k, top-p, min-p and repetition penalty from its generation_config.json, or none
    #[arg(long, env = "MOSU_GENERATION_CONFIG", value_enum, default_value_t)]
    generation_config: GenerationConfig,
    /// The same seed gives the same answer [default: another one each time]
    #[arg(long, env = "MOSU_SEED")]
    seed: Option<u64>,
    /// Use this chat template instead of the model's own: a Jinja file, or chatglm2, chatglm3, fingpt, internlm or
    /// skywork, for models that come without one
    #[arg(long, env = "MOSU_CHAT_TEMPLATE", value_name = "FILE|NAME")]
    chat_template: Option<PathBuf>,
    /// Continue the prompt as it is, without chat template
    #[arg(long, env = "MOSU_RAW", value_parser = BoolishValueParser::new(), conflicts_with = "chat_template")]
    pub raw: bool,
}

impl AnswerArgs {
    /// Whether the model's generation_config.json counts.
    pub fn wants_sampling_defaults(&self) -> bool {
        self.generation_config == GenerationConfig::Auto
    }

    /// The flags, else the model's defaults; but without either, tokens are not sampled.
    fn sampling(&self, defaults: &SamplingDefaults) -> SamplingParams {
        let default = SamplingParams::from(defaults);
        SamplingParams {
            temperature: self.temperature.or(defaults.temperature).unwrap_or(0.0),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            seed: self.seed,
            ..default
        }
    }

    fn request(&self, prompt: Vec<u32>, end_tokens: Vec<u32>, defaults: &SamplingDefaults) -> Request {
        Request {
            sampling: self.sampling(defaults),
            stop: StopConditions {
                max_tokens: self.max_tokens,
                token_ids: end_tokens,
                ..StopConditions::default()
            },
            ..Request::new(prompt)
        }
    }
}

/// A loaded model and how it is asked.
pub struct Responder {
    engine: Engine,
    args: AnswerArgs,
    /// Replaces the model's own.
    template: Option<ChatTemplate>,
    runtime: Runtime,
}

/// An answer that has been written.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were already computed.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub output_tokens: usize,
    /// How it ended; `None` is by Ctrl-C.
    pub finish: Option<Finish>,
    /// From the question to the first token.
    pub first_token: Option<Duration>,
    /// From the first token to the last.
    pub decoding: Duration,
}

impl Responder {
    /// `source` is where `engine`'s model came from.
    ///
    /// # Errors
    /// When the chat template cannot be used.
    pub fn new(engine: Engine, source: &ModelSource, args: AnswerArgs) -> Result<Responder, Failure> {
        let template =
            args.chat_template.as_ref().map(|chosen| ChatTemplate::choose(chosen, source)).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| Failure::System(format!("cannot listen to signals: {error}")))?;
        Ok(Responder { engine, args, template, runtime })
    }

    /// Tokens that prompt and answer may have together.
    pub fn context(&self) -> usize {
        self.engine.max_model_len()
    }

    /// Answers a conversation.
    ///
    /// # Errors
    /// When the template or the engine refuses it; the answer so far has been written.
    pub fn chat(&self, messages: &[Value], screen: &mut Screen) -> Result<Answer, Failure> {
        let asked = Instant::now();
        let prompt = self.template()?.render(&ChatRequest {
            messages: messages.to_vec(),
            tools: None,
            add_generation_prompt: true,
            continue_final_message: false,
            kwargs: serde_json::Map::new(),
        });
        let prompt = prompt.map_err(|error| Failure::Model(error.to_string()))?;
        // Templates place special tokens themselves.
        let end_tokens = self.template()?.end_tokens().iter();
        let end_tokens = end_tokens.filter_map(|name| self.engine.tokenizer().id_of(name)).collect();
        self.answer(&prompt, false, end_tokens, asked, screen)
    }

    /// Continues a text.
    ///
    /// # Errors
    /// When the engine refuses it; the answer so far has been written.
    pub fn complete(&self, prompt: &str, screen: &mut Screen) -> Result<Answer, Failure> {
        self.answer(prompt, true, Vec::new(), Instant::now(), screen)
    }

    /// The template that conversations are rendered with.
    ///
    /// # Errors
    /// When there is none that can be used.
    pub fn template(&self) -> Result<&ChatTemplate, Failure> {
        if let Some(chosen) = &self.template {
            return Ok(chosen);
        }
        let model = &self.engine.model_info().name;
        let fault = match self.engine.chat_template() {
            Ok(Some(template)) => return Ok(template),
            Ok(None) => format!("{model} has no chat template"),
            Err(error) => format!("the chat template of {model} cannot be used: {error}"),
        };
        Err(Failure::Model(format!(
            "{fault}: give one with --chat-template FILE, or the name of a built-in one ({}), or a prompt with --raw",
            ChatTemplate::builtin_names().collect::<Vec<_>>().join(", ")
        )))
    }

    fn answer(
        &self,
        prompt: &str,
        add_special_tokens: bool,
        end_tokens: Vec<u32>,
        asked: Instant,
        screen: &mut Screen,
    ) -> Result<Answer, Failure> {
        let tokens = self.engine.tokenizer().encode(prompt, add_special_tokens);
        let tokens = tokens.map_err(|error| Failure::Model(error.to_string()))?;
        let mut answer = Answer::new(tokens.len());
        let request = self.args.request(tokens, end_tokens, self.engine.sampling_defaults());
        let stream = self.engine.generate(request)?;
        self.runtime.block_on(until_ctrl_c(answer.write(stream, asked, screen)))?;
        Ok(answer)
    }
}

/// Runs `work` to its end or until Ctrl-C. Once this has run, Ctrl-C no longer ends the program by itself.
async fn until_ctrl_c(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::select! {
        biased; // the first poll must hear Ctrl-C from then on
        heard = tokio::signal::ctrl_c() => {
            heard.map_err(|error: io::Error| Failure::System(format!("cannot listen to signals: {error}")))
        }
        result = work => result,
    }
}

impl Answer {
    fn new(prompt_tokens: usize) -> Answer {
        Answer {
            text: String::new(),
            prompt_tokens,
            cached_tokens: 0,
            output_tokens: 0,
            finish: None,
            first_token: None,
            decoding: Duration::ZERO,
        }
    }

    /// Writes the events as they come.
    async fn write(
        &mut self,
        mut stream: GenerationStream,
        asked: Instant,
        screen: &mut Screen<'_>,
    ) -> Result<(), Failure> {
        while let Some(event) = stream.next().await {
            match event {
                Event::Prompt(prompt) => self.cached_tokens = prompt.cached_tokens,
                Event::Output { text, tokens, finish, .. } => {
                    let since = stream.event_time() - asked;
                    let first_token = *self.first_token.get_or_insert(since);
                    self.decoding = since - first_token;
                    self.output_tokens += tokens.len();
                    self.finish = finish;
                    self.text += &text;
                    screen.answer(&text)?;
                }
                Event::Finished(_) => return Ok(()),
                Event::Failed(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// As `42 tokens · 118.3 tokens/s · first token after 12 ms`. The rate is that of the tokens after the first.
    pub fn summary(&self, context: usize) -> String {
        let mut parts = vec![units::count(self.output_tokens, "token")];
        if self.output_tokens > 1 && !self.decoding.is_zero() {
            let rate = (self.output_tokens - 1) as f64 / self.decoding.as_secs_f64();
            parts.push(format!("{rate:.1} tokens/s"));
        }
        if let Some(first_token) = self.first_token {
            parts.push(format!("first token after {}", units::duration(first_token)));
        }
        match self.finish {
            None => parts.push("stopped".into()),
            Some(Finish::Length) if self.prompt_tokens + self.output_tokens >= context => {
                parts.push(format!("the context of {} is full", units::count(context, "token")));
            }
            Some(Finish::Length) => parts.push("cut off by --max-tokens".into()),
            Some(_) => {}
        }
        parts.join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        answer: AnswerArgs,
    }

    #[test]
    fn flags_go_before_the_models_defaults() {
        let sampling = |flags: &[&str], defaults: &SamplingDefaults| {
            Flags::parse_from([&["mosu"], flags].concat()).answer.sampling(defaults)
        };
        let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        assert_eq!(sampling(&[], &SamplingDefaults::default()), greedy);
        let defaults = SamplingDefaults {
            temperature: Some(0.6),
            top_k: Some(20),
            top_p: Some(0.95),
            min_p: Some(0.1),
            repetition_penalty: Some(1.05),
        };
        assert_eq!(sampling(&[], &defaults), SamplingParams::from(&defaults));
        let flags = ["--temperature", "1", "--top-k", "0", "--top-p", "1", "--min-p", "0"];
        let penalised = SamplingParams { repetition_penalty: 1.05, ..SamplingParams::default() };
        assert_eq!(sampling(&flags, &defaults), penalised);
    }

    fn answer() -> Answer {
        Answer {
            output_tokens: 42,
            finish: Some(Finish::EndToken(0)),
            first_token: Some(Duration::from_millis(12)),
            decoding: Duration::from_millis(410),
            ..Answer::new(10)
        }
    }

    #[test]
    fn the_rate_leaves_out_the_first_token() {
        assert_eq!(answer().summary(100), "42 tokens · 100.0 tokens/s · first token after 12 ms");
        let one = Answer { output_tokens: 1, decoding: Duration::ZERO, ..answer() };
        assert_eq!(one.summary(100), "1 token · first token after 12 ms");
    }

    #[test]
    fn an_early_end_is_named() {
        let end = |finish, context| {
            Answer { finish, ..answer() }.summary(context).split(" · ").last().map(String::from)
        };
        assert_eq!(end(Some(Finish::Length), 100).as_deref(), Some("cut off by --max-tokens"));
        assert_eq!(end(Some(Finish::Length), 52).as_deref(), Some("the context of 52 tokens is full"));
        assert_eq!(end(None, 100).as_deref(), Some("stopped"));
    }
}
