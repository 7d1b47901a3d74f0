//! From text to kernels.

use crate::fault::ParseError;
use crate::lex::{Token, tokens};
use crate::memory::PARAM_BASE;
use crate::op::{Arg, Inst, Op, Slot, Special, decode};
use std::collections::HashMap;
use std::sync::Arc;

/// The kernels of a PTX module.
#[derive(Clone, Debug)]
pub struct Module {
    entries: Vec<Arc<Entry>>,
}

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    pub(crate) name: String,
    /// Where each parameter starts, and its size.
    pub(crate) params: Vec<(usize, usize)>,
    /// The threads of a CTA along x, where the kernel says so.
    pub(crate) threads: Option<u32>,
    /// The CTAs of a cluster, along x; 1 where there is none.
    pub(crate) cluster: u32,
    pub(crate) code: Vec<Inst>,
    /// The names of the registers of a thread.
    pub(crate) registers: Vec<String>,
    /// The text, for messages.
    pub(crate) lines: Arc<Vec<String>>,
}

impl Module {
    /// Reads a module.
    ///
    /// # Errors
    /// [`ParseError`], also for what is PTX but not emulated.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        let lines = Arc::new(text.lines().map(str::to_owned).collect());
        let mut parser = Parser { tokens: tokens(text)?, at: 0, globals: HashMap::new(), lines };
        let mut entries = Vec::new();
        while parser.at < parser.tokens.len() {
            parser.top(&mut entries)?;
        }
        Ok(Module { entries })
    }

    /// A kernel by name.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// The names of the kernels.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
    /// Variables of the module, by their addresses.
    globals: HashMap<&'a str, Arg>,
    lines: Arc<Vec<String>>,
}

/// What a name stands for within braces.
#[derive(Default)]
struct Scope<'a> {
    registers: HashMap<&'a str, Slot>,
    /// `%r<9>`: the first of the registers that share a prefix, and their number.
    families: HashMap<&'a str, (Slot, u32)>,
    labels: HashMap<&'a str, usize>,
    /// Branches to labels that are not known yet.
    branches: Vec<(usize, &'a str)>,
}

/// A body on its way.
struct Body<'a> {
    scopes: Vec<Scope<'a>>,
    symbols: HashMap<&'a str, Arg>,
    code: Vec<Inst>,
    registers: Vec<String>,
}

fn bytes_of(ty: &str) -> Option<usize> {
    let digits = ty.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.parse::<usize>().ok().map(|bits| bits / 8)
}

fn special(name: &str) -> Option<Special> {
    let axis = || ["x", "y", "z"].iter().position(|axis| name.rsplit('.').next() == Some(axis));
    Some(match name.split('.').next()? {
        "%tid" => Special::Tid(axis()?),
        "%ntid" => Special::Ntid(axis()?),
        "%ctaid" => Special::Ctaid(axis()?),
        "%nctaid" => Special::Nctaid(axis()?),
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%cluster_ctarank" => Special::ClusterRank,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|(token, _)| *token)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |(_, line)| *line)
    }

    fn next(&mut self) -> Option<Token<'a>> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn eat(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(Token::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn error<T>(&self, expected: &str) -> Result<T, ParseError> {
        let found = match self.peek() {
            Some(Token::Word(word)) => word.to_owned(),
            Some(Token::Number(number)) => number.to_string(),
            Some(Token::Mark(mark)) => mark.to_string(),
            None => "the end".to_owned(),
        };
        Err(ParseError::new(self.line(), expected, found))
    }

    fn expect(&mut self, mark: char) -> Result<(), ParseError> {
        if self.eat(mark) { Ok(()) } else { self.error(&format!("`{mark}`")) }
    }

    fn word(&mut self) -> Result<&'a str, ParseError> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            _ => self.error("a name"),
        }
    }

    fn number(&mut self) -> Result<u64, ParseError> {
        let negative = self.eat('-');
        match self.peek() {
            Some(Token::Number(number)) => {
                self.at += 1;
                Ok(if negative { number.wrapping_neg() } else { number })
            }
            _ => self.error("a number"),
        }
    }

    /// A directive of the module, or a kernel.
    fn top(&mut self, entries: &mut Vec<Arc<Entry>>) -> Result<(), ParseError> {
        match self.word()? {
            ".version" | ".address_size" => {
                self.number()?;
                // The minor number of a version.
                if matches!(self.peek(), Some(Token::Word(word)) if word[1..].parse::<u32>().is_ok()) {
                    self.at += 1;
                }
            }
            ".target" => {
                self.word()?;
                while self.eat(',') {
                    self.word()?;
                }
            }
            ".visible" => {}
            ".extern" => self.external()?,
            ".entry" => {
                let entry = self.entry()?;
                entries.push(Arc::new(entry));
            }
            _ => {
                self.at -= 1;
                return self.error("a directive that is emulated");
            }
        }
        Ok(())
    }

    /// `.extern .shared .align 1024 .b8 smem[];`: the dynamic shared memory of a launch.
    fn external(&mut self) -> Result<(), ParseError> {
        if self.word()? != ".shared" {
            self.at -= 1;
            return self.error("`.shared`");
        }
        let mut name = self.word()?;
        while name.starts_with('.') {
            if name == ".align" {
                self.number()?;
            }
            name = self.word()?;
        }
        self.globals.insert(name, Arg::Special(Special::SharedBase));
        self.expect('[')?;
        self.expect(']')?;
        self.expect(';')
    }

    fn entry(&mut self) -> Result<Entry, ParseError> {
        let name = self.word()?.to_owned();
        let mut symbols = self.globals.clone();
        let mut params = Vec::new();
        let mut end = 0usize;
        if self.eat('(') {
            while !self.eat(')') {
                let (name, bytes, align) = self.param()?;
                let start = end.next_multiple_of(align);
                symbols.insert(name, Arg::Imm(PARAM_BASE + start as u64));
                params.push((start, bytes));
                end = start + bytes;
                self.eat(',');
            }
        }
        let (mut threads, mut cluster) = (None, 1);
        while let Some(Token::Word(directive)) = self.peek() {
            self.at += 1;
            if directive == ".explicitcluster" {
                continue;
            }
            let first = self.number()?;
            while self.eat(',') {
                if self.number()? != 1 && matches!(directive, ".reqntid" | ".reqnctapercluster") {
                    self.at -= 1;
                    return self.error("CTAs along x alone");
                }
            }
            match directive {
                ".reqntid" => threads = Some(first as u32),
                ".reqnctapercluster" => cluster = first as u32,
                _ => {}
            }
        }
        self.expect('{')?;
        let mut body =
            Body { scopes: vec![Scope::default()], symbols, code: Vec::new(), registers: Vec::new() };
        while !body.scopes.is_empty() {
            self.statement(&mut body)?;
        }
        let Body { code, registers, .. } = body;
        Ok(Entry { name, params, threads, cluster, code, registers, lines: self.lines.clone() })
    }

    /// A parameter: its name, bytes and alignment.
    fn param(&mut self) -> Result<(&'a str, usize, usize), ParseError> {
        let (mut bytes, mut align, mut is_pointer) = (None, None, false);
        loop {
            match self.word()? {
                ".param" | ".global" => {}
                // What follows is said of what it points to.
                ".ptr" => is_pointer = true,
                ".align" => {
                    let number = self.number()? as usize;
                    align = align.or((!is_pointer).then_some(number));
                }
                word if word.starts_with('.') => bytes = bytes_of(word),
                name => {
                    let Some(element) = bytes else { return self.error("a type before the name") };
                    let count = if self.eat('[') {
                        let count = self.number()? as usize;
                        self.expect(']')?;
                        count
                    } else {
                        1
                    };
                    return Ok((name, element * count, align.unwrap_or(element)));
                }
            }
        }
    }

    fn statement(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        if self.eat('{') {
            body.scopes.push(Scope::default());
            return Ok(());
        }
        if self.eat('}') {
            return self.close(body);
        }
        if self.eat(';') {
            return Ok(());
        }
        let line = self.line();
        let guard = if self.eat('@') {
            let negated = self.eat('!');
            let name = self.word()?;
            Some((body.register(name).map_or_else(|| self.unknown(name), Ok)?, negated))
        } else {
            None
        };
        let word = self.word()?;
        if self.eat(':') {
            let next = body.code.len();
            body.top().labels.insert(word, next);
            return Ok(());
        }
        match word {
            ".reg" => return self.registers(body),
            ".pragma" | ".loc" => {
                while self.next().is_some_and(|token| token != Token::Mark(';')) {}
                return Ok(());
            }
            _ => {}
        }
        let Some(mut op) = decode(word) else {
            return Err(ParseError::new(line, "an instruction that is emulated", word));
        };
        let mut args = Vec::new();
        while !self.eat(';') {
            args.push(self.arg(op, body)?);
            self.eat(',');
        }
        let policy = if word.split('.').any(|part| part == "L2::cache_hint") { args.pop() } else { None };
        if let (Op::CopyAsync { bytes }, Some(Arg::Imm(size))) = (&mut op, args.get(2)) {
            *bytes = *size as usize;
        }
        body.code.push(Inst { guard, op, args, policy, line });
        Ok(())
    }

    /// Leaves braces: labels within them find their branches, other branches look further out.
    fn close(&self, body: &mut Body<'a>) -> Result<(), ParseError> {
        let Some(scope) = body.scopes.pop() else { return Ok(()) };
        for (at, name) in scope.branches {
            match (scope.labels.get(name), body.scopes.last_mut()) {
                (Some(&target), _) => body.code[at].args = vec![Arg::Target(target)],
                (None, Some(outer)) => outer.branches.push((at, name)),
                (None, None) => return Err(ParseError::new(body.code[at].line, "a label", name)),
            }
        }
        Ok(())
    }

    /// `.reg .b32 %r<9>;` or `.reg .pred p, q;`
    fn registers(&mut self, body: &mut Body<'a>) -> Result<(), ParseError> {
        self.word()?;
        loop {
            let name = self.word()?;
            let first = body.registers.len() as Slot;
            if self.eat('<') {
                let count = self.number()? as u32;
                self.expect('>')?;
                body.registers.extend((0..count).map(|i| format!("{name}{i}")));
                body.top().families.insert(name, (first, count));
            } else {
                body.registers.push(name.to_owned());
                body.top().registers.insert(name, first);
            }
            if !self.eat(',') {
                return self.expect(';');
            }
        }
    }

    fn unknown<T>(&self, name: &str) -> Result<T, ParseError> {
        Err(ParseError::new(self.line(), "a register, parameter or variable that is declared", name))
    }

    fn arg(&mut self, op: Op, body: &mut Body<'a>) -> Result<Arg, ParseError> {
        if self.eat('{') {
            let mut parts = Vec::new();
            while !self.eat('}') {
                parts.push(self.arg(op, body)?);
                self.eat(',');
            }
            return Ok(Arg::Vector(parts));
        }
        if self.eat('[') {
            let base = Box::new(self.arg(op, body)?);
            let offset = if self.eat('+') { self.number()? } else { 0 };
            let coordinates = match self.eat(',') {
                true => match self.arg(op, body)? {
                    Arg::Vector(parts) => parts,
                    _ => return self.error("coordinates"),
                },
                false => Vec::new(),
            };
            self.expect(']')?;
            return Ok(Arg::Memory { base, offset, coordinates });
        }
        if self.eat('!') {
            let name = self.word()?;
            return body.register(name).map_or_else(|| self.unknown(name), |slot| Ok(Arg::Not(slot)));
        }
        let Some(Token::Word(name)) = self.peek() else { return Ok(Arg::Imm(self.number()?)) };
        self.at += 1;
        if name == "_" {
            return Ok(Arg::Sink);
        }
        if op == Op::Branch {
            let at = body.code.len();
            body.top().branches.push((at, name));
            return Ok(Arg::Target(usize::MAX));
        }
        if let Some(special) = special(name) {
            return Ok(Arg::Special(special));
        }
        if let Some(slot) = body.register(name) {
            if self.eat('|') {
                let name = self.word()?;
                return body
                    .register(name)
                    .map_or_else(|| self.unknown(name), |other| Ok(Arg::Pair(slot, other)));
            }
            return Ok(Arg::Reg(slot));
        }
        body.symbols.get(name).map_or_else(|| self.unknown(name), |address| Ok(address.clone()))
    }
}

impl<'a> Body<'a> {
    fn top(&mut self) -> &mut Scope<'a> {
        self.scopes.last_mut().expect("statements stand within braces")
    }

    /// A register by name, from the innermost braces outwards.
    fn register(&self, name: &str) -> Option<Slot> {
        let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = name[prefix.len()..].parse::<u32>().ok();
        self.scopes.iter().rev().find_map(|scope| {
            scope.registers.get(name).copied().or_else(|| {
                let &(first, count) = scope.families.get(prefix)?;
                number.filter(|n| *n < count).map(|n| first + n)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: &str = r"
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 smem[];
.visible .entry k(
  .param .u32 k_param_0,
  .param .u64 .ptr .global .align 1 k_param_1,
  .param .align 64 .b8 k_param_2[128]
)
.reqntid 64, 1, 1
{
  .reg .pred %p<2>;
  .reg .b32 %r<3>;
$L__BB0_1:
  { .reg .pred p; again: setp.eq.u32 p, %r1, 0; @!p bra.uni again; @p bra $L__BB0_1; }
  ld.param.b32 %r2, [k_param_0];
  ret;
}";

    #[test]
    fn parameters_and_labels_are_placed() {
        let module = Module::parse(KERNEL).unwrap();
        let entry = module.entry("k").unwrap();
        assert_eq!(entry.params, [(0, 4), (8, 8), (64, 128)]);
        assert_eq!((entry.threads, entry.registers.len()), (Some(64), 6));
        let targets: Vec<_> = entry.code.iter().filter(|i| i.op == Op::Branch).map(|i| &i.args[0]).collect();
        assert_eq!(targets, [&Arg::Target(0), &Arg::Target(0)]);
    }

    #[test]
    fn what_is_not_emulated_is_named_with_its_line() {
        let text = KERNEL.replace("ret;", "tcgen05.alloc.cta_group::1 [%r1], 32;");
        let error = Module::parse(&text).unwrap_err();
        assert_eq!((error.line, error.found.as_str()), (18, "tcgen05.alloc.cta_group::1"));
        let error = Module::parse(&KERNEL.replace("%r2, [", "%r3, [")).unwrap_err();
        assert_eq!(error.found, "%r3");
        assert!(Module::parse(&KERNEL.replace("bra $L__BB0_1", "bra nowhere")).is_err());
    }
}
