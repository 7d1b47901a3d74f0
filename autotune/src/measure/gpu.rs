//! A bench on a GPU.

use super::problem::{ORACLE_COST, difference, smaller, whole_input};
use super::protocol::Opening;
use super::{Bench, Fault, GpuFacts, Pair};
use crate::subject::{Subject, find_contract};
use tile::contract::{Role, StepArg, TensorSpec, random_inputs, relative_error};
use tile::cuda::{DeviceBuffer, DeviceTensor, Event, Prepared, Stream};
use tile::dynamic::{DynArg, DynTensor};
use tile::{Config, Device, DeviceError, LaunchError};

/// Configurations that stay ready to run: the reference, and those timed beside it last.
const MAX_READY: usize = 4;
/// What outputs are filled with before a run: NaN in every floating-point type that has one.
const POISON: u8 = 0xff;
/// The seed of the inputs.
const SEED: u64 = 7;

/// Runs and times configurations on a GPU of this host.
#[derive(Default)]
pub struct GpuBench {
    opened: Option<Opened>,
}

/// A problem on a GPU.
struct Opened {
    device: Device,
    stream: Stream,
    /// Larger than the L2 cache, which writing it clears.
    scrub: DeviceBuffer,
    whole: Arena,
    /// Where the oracle is quick; none where it is on the whole problem.
    small: Option<Arena>,
    /// The oracle's results.
    expected: Vec<Vec<f64>>,
    /// Whose results on the whole problem count as right, and they.
    anchor: Option<(Config, Vec<DynTensor>)>,
    /// Launches on the whole problem, those used last at the end.
    ready: Vec<(Config, Vec<Prepared>)>,
}

/// A problem's tensors on a device.
struct Arena {
    subject: Subject,
    tensors: Vec<DeviceTensor>,
}

impl Bench for GpuBench {
    fn gpus(&mut self) -> Result<Vec<GpuFacts>, Fault> {
        let mut gpus = Vec::new();
        for index in 0.. {
            match Device::cuda(index) {
                Ok(device) => gpus.extend(facts(index, &device)),
                // Another one may be of use.
                Err(LaunchError::Device(DeviceError::Unsupported { .. })) => {}
                Err(error) if index == 0 => return Err(Fault::Bench(error.to_string())),
                Err(_) => break,
            }
        }
        Ok(gpus)
    }

    fn open(&mut self, opening: &Opening) -> Result<(), Fault> {
        self.opened = Some(Opened::new(opening)?);
        Ok(())
    }

    fn admit(&mut self, config: &Config, anchor: Option<&Config>) -> Result<(), Fault> {
        self.opened()?.admit(config, anchor)
    }

    fn time(&mut self, config: &Config, reference: &Config, pairs: usize) -> Result<Vec<Pair>, Fault> {
        self.opened()?.time(config, reference, pairs).map_err(fault)
    }
}

impl GpuBench {
    fn opened(&mut self) -> Result<&mut Opened, Fault> {
        self.opened.as_mut().ok_or_else(|| Fault::Bench("no problem was opened".to_owned()))
    }
}

fn facts(index: usize, device: &Device) -> Option<GpuFacts> {
    let (properties, target) = (device.properties()?, device.target()?);
    let cuda = properties.driver_cuda;
    let unnamed = || format!("CUDA {}.{}", cuda / 1000, cuda % 1000 / 10);
    Some(GpuFacts {
        index,
        name: properties.name.clone(),
        part: target.part.to_owned(),
        driver: properties.driver_release.clone().unwrap_or_else(unnamed),
        clock_mhz: Some(properties.clock_khz / 1000).filter(|mhz| *mhz > 0),
    })
}

/// What a failed launch means: after a fault in a running kernel, or an unknown failure, the context is of no more
/// use; everything else is found before a launch.
fn fault(error: LaunchError) -> Fault {
    match &error {
        LaunchError::Device(DeviceError::OutOfMemory { .. }) => Fault::Candidate(error.to_string()),
        LaunchError::Device(_) => Fault::Context(error.to_string()),
        _ => Fault::Candidate(error.to_string()),
    }
}

impl Opened {
    fn new(opening: &Opening) -> Result<Opened, Fault> {
        let unable = |error: LaunchError| Fault::Bench(error.to_string());
        let refused = |error: crate::TuneError| Fault::Bench(error.to_string());
        let contract = find_contract(&opening.kernel).map_err(refused)?;
        let subject = Subject::new(contract, Some(opening.dtype), &opening.sizes).map_err(refused)?;
        let device = Device::cuda(opening.gpu).map_err(unable)?;
        let l2_bytes = device.properties().map_or(0, |properties| properties.l2_bytes);

        let problem = smaller(contract, &subject.problem, ORACLE_COST);
        let given = random_inputs(contract, &problem, SEED);
        let widened: Vec<Vec<f64>> = given.iter().map(DynTensor::to_f64).collect();
        let expected = contract.oracle(&problem, &widened);
        let is_whole = problem == subject.problem;
        let checked =
            Arena::new(Subject { contract, problem }, &device, given.into_iter()).map_err(unable)?;
        let (whole, small) = if is_whole {
            (checked, None)
        } else {
            let problem = subject.problem.clone();
            let specs = contract.tensors(&problem).into_iter().filter(|spec| spec.role == Role::Input);
            let given = specs.map(|spec| whole_input(contract, &problem, &spec, SEED));
            (Arena::new(subject, &device, given).map_err(unable)?, Some(checked))
        };
        Ok(Opened {
            stream: Stream::new(&device).map_err(unable)?,
            scrub: DeviceBuffer::new(&device, 2 * l2_bytes.max(1 << 20)).map_err(unable)?,
            device,
            whole,
            small,
            expected,
            anchor: None,
            ready: Vec::new(),
        })
    }

    fn admit(&mut self, config: &Config, anchor: Option<&Config>) -> Result<(), Fault> {
        if let Some(small) = &mut self.small {
            let steps = small.prepare(&self.device, config).map_err(fault)?;
            let found = small.run(&steps, &self.stream).map_err(fault)?;
            agrees_with_oracle(&small.subject, &found, &self.expected)?;
        }
        let found = self.results(config).map_err(fault)?;
        if self.small.is_none() {
            return agrees_with_oracle(&self.whole.subject, &found, &self.expected);
        }
        let Some(anchor) = anchor else { return Ok(()) };
        if self.anchor.as_ref().is_none_or(|(known, _)| known != anchor) {
            let results = self.results(anchor).map_err(fault)?;
            self.anchor = Some((anchor.clone(), results));
        }
        let reference = self.anchor.iter().flat_map(|(_, results)| results);
        let errors: Vec<f64> = found.iter().zip(reference).map(|(f, r)| difference(f, r)).collect();
        // Each of the two may be as far from the truth as the dtype explains.
        let whole = &self.whole.subject;
        let allowed = 2.0 * whole.contract.tolerance(whole.problem.dtype, true);
        within(whole, &errors, allowed, "the results of another configuration on the whole problem")
    }

    /// The outputs of a configuration on the whole problem.
    fn results(&mut self, config: &Config) -> Result<Vec<DynTensor>, LaunchError> {
        self.make_ready(config)?;
        match self.ready.last() {
            Some((_, steps)) => self.whole.run(steps, &self.stream),
            None => Ok(Vec::new()),
        }
    }

    /// Puts a configuration at the end of those that are ready.
    fn make_ready(&mut self, config: &Config) -> Result<(), LaunchError> {
        let entry = match self.ready.iter().position(|(known, _)| known == config) {
            Some(place) => self.ready.remove(place),
            None => (config.clone(), self.whole.prepare(&self.device, config)?),
        };
        if self.ready.len() == MAX_READY {
            self.ready.remove(0);
        }
        self.ready.push(entry);
        Ok(())
    }

    fn time(&mut self, config: &Config, reference: &Config, pairs: usize) -> Result<Vec<Pair>, LaunchError> {
        self.make_ready(config)?;
        self.make_ready(reference)?;
        let steps = |wanted: &Config| {
            let found = self.ready.iter().find(|(known, _)| known == wanted);
            found.map_or(&[][..], |(_, steps)| steps.as_slice())
        };
        let (candidate, reference) = (steps(config), steps(reference));
        let mut run = |steps: &[Prepared]| -> Result<(Event, Event), LaunchError> {
            let (start, end) = (Event::new(&self.device)?, Event::new(&self.device)?);
            self.scrub.fill(0, &self.stream)?;
            start.record(&self.stream)?;
            steps.iter().try_for_each(|step| step.launch(&self.stream))?;
            end.record(&self.stream)?;
            Ok((start, end))
        };
        // One of each that does not count: clocks rise, code is loaded.
        run(reference)?;
        run(candidate)?;
        let mut marks = Vec::new();
        for i in 0..pairs {
            // Each goes first every other time, so that what the first leaves behind evens out.
            let (first, second) = if i % 2 == 0 { (reference, candidate) } else { (candidate, reference) };
            let (first, second) = (run(first)?, run(second)?);
            marks.push(if i % 2 == 0 { (second, first) } else { (first, second) });
        }
        self.stream.synchronize()?;
        let us = |(start, end): &(Event, Event)| start.elapsed_ms(end).map(|ms| f64::from(ms) * 1e3);
        let pair = |(candidate, reference): &_| {
            Ok(Pair { candidate_us: us(candidate)?, reference_us: us(reference)? })
        };
        marks.iter().map(pair).collect()
    }
}

impl Arena {
    /// The tensors of a problem with these inputs, which are made one at a time.
    fn new(
        subject: Subject,
        device: &Device,
        mut inputs: impl Iterator<Item = DynTensor>,
    ) -> Result<Arena, LaunchError> {
        let specs = subject.contract.tensors(&subject.problem);
        let tensor = |spec: &TensorSpec| match spec.role {
            Role::Input => {
                DeviceTensor::from_host(device, &inputs.next().expect("as many inputs as the contract names"))
            }
            Role::Output => DeviceTensor::new(device, spec.dtype, &spec.shape),
        };
        Ok(Arena { tensors: specs.iter().map(tensor).collect::<Result<_, _>>()?, subject })
    }

    /// Compiles and loads a configuration's steps over these tensors and a workspace of their own.
    fn prepare(&mut self, device: &Device, config: &Config) -> Result<Vec<Prepared>, LaunchError> {
        let Subject { contract, problem } = &self.subject;
        let workspace = contract.workspace(problem, config);
        let workspace = workspace.iter().map(|spec| DeviceTensor::to_be_written(device, spec));
        let mut workspace: Vec<DeviceTensor> = workspace.collect::<Result<_, _>>()?;
        let mut prepared = Vec::new();
        for step in contract.steps(problem, config) {
            let mut free: Vec<Option<&mut DeviceTensor>> =
                self.tensors.iter_mut().chain(&mut workspace).map(Some).collect();
            let mut args: Vec<DynArg> = Vec::new();
            for arg in &step.args {
                args.extend(match *arg {
                    StepArg::Tensor(index) => free[index].take().map(DynArg::DeviceMut),
                    StepArg::Scalar(value) => Some(DynArg::Scalar(value)),
                });
            }
            prepared.push(step.kernel.prepare(device, &mut args, &step.config, &step.bindings, step.grid)?);
        }
        Ok(prepared)
    }

    /// Runs steps once, outputs poisoned before, and gives the outputs.
    fn run(&mut self, steps: &[Prepared], stream: &Stream) -> Result<Vec<DynTensor>, LaunchError> {
        let specs = self.subject.contract.tensors(&self.subject.problem);
        let is_output = |spec: &TensorSpec| spec.role == Role::Output;
        for (tensor, _) in self.tensors.iter_mut().zip(&specs).filter(|(_, spec)| is_output(spec)) {
            tensor.buffer_mut().fill(POISON, stream)?;
        }
        steps.iter().try_for_each(|step| step.launch(stream))?;
        stream.synchronize()?;
        let outputs = self.tensors.iter().zip(&specs).filter(|(_, spec)| is_output(spec));
        outputs.map(|(tensor, _)| tensor.to_host()).collect()
    }
}

fn agrees_with_oracle(subject: &Subject, found: &[DynTensor], expected: &[Vec<f64>]) -> Result<(), Fault> {
    let errors: Vec<f64> = found
        .iter()
        .zip(expected)
        .map(|(found, expected)| relative_error(&found.to_f64(), expected))
        .collect();
    let allowed = subject.contract.tolerance(subject.problem.dtype, true);
    let sizes: Vec<String> = subject.problem.sizes.iter().map(|(name, v)| format!("{name}={v}")).collect();
    within(subject, &errors, allowed, &format!("the reference at {}", sizes.join(" ")))
}

/// Every output's error is one that is allowed.
fn within(subject: &Subject, errors: &[f64], allowed: f64, against: &str) -> Result<(), Fault> {
    let specs = subject.contract.tensors(&subject.problem);
    let outputs = specs.iter().filter(|spec| spec.role == Role::Output);
    match outputs.zip(errors).find(|(_, error)| error.is_nan() || **error > allowed) {
        None => Ok(()),
        Some((spec, error)) => Err(Fault::Candidate(format!(
            "output `{}` differs from {against} by {error:.2e}; {allowed:.2e} is allowed",
            spec.name
        ))),
    }
}
