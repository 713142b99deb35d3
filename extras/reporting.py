"""--report_to: the metrics of a training in tensorboard or wandb too. Loaded only for them."""


def metrics_writer(settings):
    """A function (step, metrics) that sends the metrics of a step."""
    if settings.report_to == "wandb":
        import wandb

        run = wandb.init(dir=settings.output_dir, config=vars(settings))
        return lambda step, metrics: run.log(metrics, step=step)

    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(settings.output_dir)

    def write_scalars(step, metrics):
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)

    return write_scalars
