//! A model whose next token is a hash of all that a row sees, computed from a shadow of the KV cache: whoever reads a
//! wrong KV slot draws other tokens, and is found at once. Every batch is checked to the letter.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
};

use mosu_models::{
    Batch, Joining, KvGroups, KvReach, LogitFault, LogitOutput, LogitRow, LogitToken, SampleParams,
    StepOutput, TokenLogprobs, TokenPiece,
};

use crate::{
    active_request::OutputProcessor,
    block_manager::BlockManager,
    core::{CoreParts, StepModel},
    detokenizer::TokenPieces,
    sampling::SplitMix64,
    scheduler::Scheduler,
    validate::Limits,
};

pub(crate) const VOCAB_SIZE: u32 = 32;
/// Ends an output.
pub(crate) const END_TOKEN: u32 = 0;
/// Makes the tokenizer panic.
pub(crate) const PANIC_TOKEN: u32 = VOCAB_SIZE - 1;
/// Makes the draw fail. None of these is sampled unless a logit bias of 100 asks for it.
pub(crate) const FAULT_TOKEN: u32 = VOCAB_SIZE - 2;

/// What a KV slot stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Slot {
    group: usize,
    position: u32,
    /// Hash of the token and of what its row saw in all groups, and so of what those saw.
    value: u64,
}

/// What goes wrong, in which step from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Error(u64),
    Panic(u64),
}

/// The scripted model.
pub(crate) struct ScriptedModel {
    groups: KvGroups,
    slots: Vec<Option<Slot>>,
    written: HashSet<u32>,
    steps: u64,
    /// Results that nobody has asked for yet.
    in_flight: VecDeque<Result<StepOutput, String>>,
    /// What the last step sampled, for those who build on it.
    sampled: Vec<u32>,
    /// What the slots of [`SeenTokens`] hold: how often each token seen is in the output.
    seen: HashMap<u32, BTreeMap<u32, u32>>,
    pub fault: Option<Fault>,
    /// Waits for a word before each step, and tells when it waits.
    pub gate: Option<(Receiver<()>, Sender<()>)>,
}

impl ScriptedModel {
    pub fn new(num_blocks: u32, groups: KvGroups) -> ScriptedModel {
        ScriptedModel {
            slots: vec![None; num_blocks as usize * groups.block_size()],
            groups,
            written: HashSet::new(),
            steps: 0,
            in_flight: VecDeque::new(),
            sampled: Vec::new(),
            seen: HashMap::new(),
            fault: None,
            gate: None,
        }
    }

    /// The token of a row: told, or sampled by the step before, which must not have been waited for.
    fn input_token(&self, batch: &Batch, row: usize) -> u32 {
        let Ok(index) = batch.pending.binary_search_by_key(&(row as u32), |pending| pending.row) else {
            return batch.token_ids[row];
        };
        assert_eq!((batch.token_ids[row], self.in_flight.len()), (0, 1), "a token that is known already");
        self.sampled[batch.pending[index].sampled_by as usize]
    }

    /// Checks the rows of one sequence against the shadow, and writes them. Returns each row's value.
    fn run_sequence(&mut self, batch: &Batch, sequence: usize) -> Vec<u64> {
        let rows = batch.cu_seqlens_q[sequence] as usize..batch.cu_seqlens_q[sequence + 1] as usize;
        let context_len = batch.context_lens[sequence] as usize;
        assert!(!rows.is_empty() && rows.len() <= context_len);
        let first = context_len - rows.len();
        let mut seen: Vec<Seen> = (0..batch.kv.len()).map(|_| Seen::default()).collect();
        let mut values = Vec::with_capacity(rows.len());
        for (row, position) in rows.zip(first..) {
            assert_eq!(batch.positions[row] as usize, position);
            let mut value = u64::from(self.input_token(batch, row));
            for (group, seen) in seen.iter_mut().enumerate() {
                let visible = self.groups.reaches()[group].first_visible(position)..position;
                value =
                    extend(value, seen.hash(visible, |position| self.read(batch, sequence, group, position)));
            }
            for (group, places) in batch.kv.iter().enumerate() {
                let slot = self.slot(batch, sequence, group, position);
                assert_eq!(places.slot_mapping[row] as usize, slot);
                assert!(self.written.insert(slot as u32), "slot {slot} is written twice in a step");
                self.slots[slot] = Some(Slot { group, position: position as u32, value });
            }
            values.push(value);
        }
        values
    }

    fn slot(&self, batch: &Batch, sequence: usize, group: usize, position: usize) -> usize {
        let (width, size) = (batch.block_table_width, self.groups.block_size());
        let table = &batch.kv[group].block_tables[sequence * width..][..width];
        table[position / size] as usize * size + position % size
    }

    fn read(&self, batch: &Batch, sequence: usize, group: usize, position: usize) -> u64 {
        let slot = self.slots[self.slot(batch, sequence, group, position)].expect("a slot was never written");
        let found = (slot.group, slot.position as usize);
        assert_eq!(found, (group, position), "sequence {sequence} reads another's slot");
        slot.value
    }

    /// In one step no two draws have the same slot.
    fn check_slots(&self, batch: &Batch) {
        let mut taken = HashSet::new();
        for row in &batch.logit_rows {
            if let LogitToken::Sampled(SampleParams { seen: Some(seen), .. }) = &row.token {
                assert!(taken.insert(seen.slot), "slot {} has two draws in a step", seen.slot);
            }
        }
    }
}

/// The hash of the values from `first` to `end`; rows that see from the same position on continue it.
#[derive(Default)]
struct Seen {
    first: usize,
    end: usize,
    hash: u64,
}

impl Seen {
    fn hash(&mut self, visible: Range<usize>, value_at: impl Fn(usize) -> u64) -> u64 {
        if visible.start != self.first {
            *self = Seen { first: visible.start, end: visible.start, hash: 0 };
        }
        for position in self.end..visible.end {
            self.hash = SplitMix64(self.hash ^ value_at(position)).next();
        }
        self.end = visible.end;
        self.hash
    }
}

impl StepModel for ScriptedModel {
    /// Computes at once, in the order in which a device would, but tells nobody.
    fn start(&mut self, batch: &Batch) -> Result<(), String> {
        if let Some((go, waiting)) = &self.gate {
            let _ = waiting.send(());
            let _ = go.recv();
        }
        match self.fault {
            Some(Fault::Error(step)) if step == self.steps => {
                self.in_flight.push_back(Err("the device is lost".into()));
                return Ok(());
            }
            Some(Fault::Panic(step)) if step == self.steps => panic!("the model panicked"),
            _ => self.steps += 1,
        }
        self.written.clear();
        assert_eq!(batch.cu_seqlens_q.len(), batch.num_sequences() + 1);
        assert_eq!(batch.kv.len(), self.groups.count());
        let table_entries = batch.num_sequences() * batch.block_table_width;
        assert!(batch.kv.iter().all(|places| places.block_tables.len() == table_entries));
        assert!(batch.kv.iter().all(|places| places.slot_mapping.len() == batch.num_rows()));
        assert_eq!(batch.cu_seqlens_q.last().map(|&end| end as usize), Some(batch.num_rows()));
        let sequences = 0..batch.num_sequences();
        let values: Vec<u64> = sequences.flat_map(|sequence| self.run_sequence(batch, sequence)).collect();
        assert!(batch.logit_rows.is_sorted_by(|a, b| a.row < b.row), "logit rows ascend");
        self.check_slots(batch);
        let rows = batch.logit_rows.iter();
        let rows: Vec<LogitOutput> =
            rows.map(|row| logits(row, values[row.row as usize], &mut self.seen)).collect();
        let draws = batch.logit_rows.iter().zip(&rows);
        let draws = draws.filter(|(row, _)| matches!(row.token, LogitToken::Sampled(_)));
        self.sampled = draws.map(|(_, row)| row.token).collect();
        self.in_flight.push_back(Ok(StepOutput { rows }));
        assert!(self.in_flight.len() <= 2, "more than two steps in flight");
        Ok(())
    }

    fn finish(&mut self, output: &mut StepOutput) -> Result<(), String> {
        *output = self.in_flight.pop_front().expect("no step is in flight")?;
        Ok(())
    }
}

/// Hash of a hash and one word more.
fn extend(hash: u64, word: u64) -> u64 {
    SplitMix64(hash ^ word.rotate_left(17)).next()
}

fn logits(row: &LogitRow, prefix: u64, slots: &mut HashMap<u32, BTreeMap<u32, u32>>) -> LogitOutput {
    let token = match &row.token {
        LogitToken::Given(token) => *token,
        LogitToken::Sampled(params) => draw(prefix, params, slots),
    };
    let logprob = |token: u32| -((extend(prefix, u64::from(token)) >> 40) as f32);
    let logprobs = row.logprobs.map(|count| TokenLogprobs {
        logprob: logprob(token),
        rank: 1,
        top: (0..count).map(|token| (token, logprob(token))).collect(),
    });
    LogitOutput { token, logprobs, fault: (token == FAULT_TOKEN).then_some(LogitFault::NoToken) }
}

/// Depends on everything that a draw is told.
fn draw(prefix: u64, params: &SampleParams, slots: &mut HashMap<u32, BTreeMap<u32, u32>>) -> u32 {
    let mut word = prefix;
    if params.temperature > 0.0 {
        word = SplitMix64(word ^ params.seed ^ params.position).next();
    }
    let mut counts = params.seen.as_ref().map(|seen| {
        if let Some(load) = &seen.load {
            slots.insert(seen.slot, load.iter().map(|token| (token.id, token.output_count)).collect());
        }
        slots.get_mut(&seen.slot).expect("a slot was never loaded")
    });
    for (&id, &output_count) in counts.iter().flat_map(|counts| counts.iter()) {
        word = word.wrapping_add(extend(u64::from(id), u64::from(output_count)));
    }
    let mut token = (word % u64::from(FAULT_TOKEN)) as u32;
    if let Some(&(favourite, _)) = params.logit_bias.iter().find(|(_, bias)| *bias >= 100.0) {
        token = favourite;
    }
    while params.banned.contains(&token) {
        token = (token + 1) % FAULT_TOKEN;
    }
    if let Some(counts) = &mut counts {
        *counts.entry(token).or_default() += 1;
    }
    token
}

/// Token 1 is `A`, 2 is `B` and so on; those with even numbers are told to be bytes.
pub(crate) struct ScriptedText;

const LETTERS: &[u8; VOCAB_SIZE as usize] = br"@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_";

impl TokenPieces for ScriptedText {
    fn joining(&self) -> Joining {
        Joining::BYTE_FALLBACK
    }
    fn piece(&self, id: u32) -> Option<TokenPiece<'_>> {
        assert!(id != PANIC_TOKEN, "the tokenizer panicked");
        let is_byte = id < FAULT_TOKEN && id.is_multiple_of(2);
        let bytes = LETTERS.chunks(1).nth(id as usize)?;
        Some(TokenPiece { bytes, is_byte, is_special: id == END_TOKEN, has_metaspace: false })
    }
    fn special_token(&self, name: &str) -> Option<u32> {
        (name == "@").then_some(END_TOKEN)
    }
}

/// The size of a scripted engine.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    pub num_blocks: u32,
    pub block_size: usize,
    /// Of each group of layers.
    pub reaches: Vec<KvReach>,
    pub max_batch_tokens: usize,
    pub max_sequences: usize,
    pub prefix_cache: bool,
    pub overlap: bool,
}

impl Default for Size {
    fn default() -> Size {
        Size {
            num_blocks: 64,
            block_size: 4,
            reaches: vec![KvReach::Full],
            max_batch_tokens: 64,
            max_sequences: 16,
            prefix_cache: true,
            overlap: false,
        }
    }
}

impl Size {
    pub fn groups(&self) -> KvGroups {
        KvGroups::new(self.reaches.clone(), self.block_size, self.max_batch_tokens)
    }

    pub fn model(&self) -> ScriptedModel {
        ScriptedModel::new(self.num_blocks, self.groups())
    }

    pub fn parts(&self, model: ScriptedModel) -> CoreParts {
        let blocks = BlockManager::new(self.num_blocks, self.groups());
        CoreParts {
            model: Box::new(model),
            processor: OutputProcessor {
                tokens: Arc::new(ScriptedText),
                end_tokens: vec![END_TOKEN],
                vocab_size: VOCAB_SIZE as usize,
            },
            scheduler: Scheduler::new(blocks, self.max_batch_tokens, self.max_sequences),
            prefix_cache: self.prefix_cache,
            overlap: self.overlap,
            seeds: SplitMix64(1),
        }
    }

    pub fn limits(&self) -> Limits {
        Limits {
            vocab_size: VOCAB_SIZE as usize,
            context: 200,
            num_kv_blocks: self.num_blocks as usize,
            kv_groups: self.groups(),
            max_waiting_requests: 8,
        }
    }
}
