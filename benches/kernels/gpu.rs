//! Kernels made ready on a GPU, and their times.

use autotune::TuneError;
use autotune::configs::{Choice, Configs};
use autotune::subject::Subject;
use tile::contract::{Role, TensorSpec};
use tile::cuda::{DeviceBuffer, DeviceTensor, Event, Prepared, Stream};
use tile::dynamic::DynTensor;
use tile::{Config, Device, LaunchError};

/// A GPU, and the tables of its tuned configurations.
pub struct Session {
    device: Device,
    stream: Stream,
    /// Twice the L2 cache, which writing it clears.
    scrub: std::cell::RefCell<DeviceBuffer>,
    configs: Configs,
}

/// The launches of a kernel over tensors on the GPU.
pub struct Ready {
    tensors: Vec<DeviceTensor>,
    steps: Vec<Prepared>,
}

impl Session {
    /// The first GPU.
    pub fn open() -> Result<Session, Box<dyn std::error::Error>> {
        let device = Device::cuda(0)?;
        let l2_bytes = device.properties().map_or(0, |properties| properties.l2_bytes);
        let scrub = DeviceBuffer::new(&device, 2 * l2_bytes.max(1 << 20))?;
        let stream = Stream::new(&device)?;
        Ok(Session { stream, scrub: scrub.into(), configs: Configs::open(None)?, device })
    }

    /// The device as the driver names it.
    pub fn name(&self) -> &str {
        self.device.name()
    }

    /// The configuration that a launch would have: the tables' for the problem, else the model's choice.
    pub fn choose(&self, subject: &Subject) -> Result<Choice, TuneError> {
        let Some(target) = self.device.target() else { unreachable!("a GPU has a target") };
        let choice = self.configs.choose(subject, target)?;
        choice.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        Ok(choice)
    }

    /// Compiles and loads a configuration over inputs that `input` makes one at a time.
    pub fn prepare(
        &self,
        subject: &Subject,
        config: &Config,
        mut input: impl FnMut(&TensorSpec) -> DynTensor,
    ) -> Result<Ready, LaunchError> {
        let Subject { contract, problem } = subject;
        let tensor = |spec: &TensorSpec| match spec.role {
            Role::Input => DeviceTensor::from_host(&self.device, &input(spec)),
            Role::Output => DeviceTensor::to_be_written(&self.device, spec),
        };
        let specs = contract.all_tensors(problem, config);
        let mut tensors: Vec<_> = specs.iter().map(tensor).collect::<Result<_, _>>()?;
        let steps = contract.steps(problem, config);
        let steps = steps.iter().map(|step| step.prepare(&self.device, &mut tensors));
        Ok(Ready { steps: steps.collect::<Result<_, _>>()?, tensors })
    }

    /// Milliseconds of each of some runs.
    pub fn time(&self, ready: &Ready, runs: u64) -> Result<Vec<f64>, LaunchError> {
        self.time_each(runs, || ready.steps.iter().try_for_each(|step| step.launch(&self.stream)))
    }

    /// Milliseconds of each of some copies from device memory to device memory.
    pub fn time_copy(&self, bytes: usize, runs: u64) -> Result<Vec<f64>, LaunchError> {
        let (from, mut to) =
            (DeviceBuffer::new(&self.device, bytes)?, DeviceBuffer::new(&self.device, bytes)?);
        self.time_each(runs, || to.copy_from(&from, &self.stream))
    }

    fn time_each(
        &self,
        runs: u64,
        mut run: impl FnMut() -> Result<(), LaunchError>,
    ) -> Result<Vec<f64>, LaunchError> {
        let mut scrub = self.scrub.borrow_mut();
        let mut marks = Vec::new();
        for _ in 0..runs {
            let (start, end) = (Event::new(&self.device)?, Event::new(&self.device)?);
            scrub.fill(0, &self.stream)?;
            start.record(&self.stream)?;
            run()?;
            end.record(&self.stream)?;
            marks.push((start, end));
        }
        self.stream.synchronize()?;
        marks.iter().map(|(start, end)| Ok(f64::from(start.elapsed_ms(end)?))).collect()
    }

    /// The tensors of [`tile::contract::Contract::all_tensors`], after one run.
    pub fn results(&self, ready: &Ready) -> Result<Vec<DynTensor>, LaunchError> {
        ready.steps.iter().try_for_each(|step| step.launch(&self.stream))?;
        self.stream.synchronize()?;
        ready.tensors.iter().map(DeviceTensor::to_host).collect()
    }
}
