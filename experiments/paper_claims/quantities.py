"""What claims are measured by: a number for each seed, of checked rates and of lengths. Pure."""

from collections.abc import Callable, Mapping
from statistics import mean

from experiments.paper_claims.arms import Arms
from tpo.results.headline import CHECKED, UNSEEN
from tpo.results.rate import Rate
from tpo.results.read import FinishedRun

#: Where so many thoughts end by force, and so much of their budget is used, their lengths are the budget's.
FORCED, FULL = 0.9, 0.8

Values = Mapping[int, float]  # by seed
Measure = Callable[[Arms], Values]


def rate(run: FinishedRun, place: int) -> float:
    """Return the strict checked rate at one of the run's iterations, the last at -1."""
    return _known(CHECKED.of(run.summary["iterations"][place]))


def change(run: FinishedRun) -> float:
    """Return how much the checked rate changed from the untrained policy to the last one."""
    return rate(run, -1) - rate(run, 0)


def growth(run: FinishedRun, key: str) -> float | None:
    """Return the relative change of mean tokens over the whole run, None where there were none before."""
    first, last = (run.summary["iterations"][place][key] for place in (0, -1))
    return last / first - 1 if first else None


def growth_per_iteration(run: FinishedRun, key: str) -> float | None:
    """Return the relative change of mean tokens that, iteration after iteration, makes that of the whole run."""
    whole, count = growth(run, key), run.summary["iterations"][-1]["iteration"]
    return None if whole is None or not count else (1 + whole) ** (1 / count) - 1


def prompt_cost(arms: Arms) -> Values:
    """Return the untrained policy's checked rate with the thought prompt less that of its direct answers."""
    return {
        seed: rate(run, 0) - _known(Rate.from_dict(run.summary["baseline_checked"]["strict"]))
        for seed, run in arms.thoughts.items()
    }


def step(iteration: int) -> Measure:
    """Return the measure of what an iteration adds to the one before; runs that ended earlier have none."""

    def measure(arms: Arms) -> Values:
        return {
            seed: rate(run, iteration) - rate(run, iteration - 1)
            for seed, run in arms.thoughts.items()
            if len(run.summary["iterations"]) > iteration
        }

    return measure


def gain(arms: Arms) -> Values:
    """Return the change of the checked rate over all iterations."""
    return {seed: change(run) for seed, run in arms.thoughts.items()}


def lead(arms: Arms) -> Values:
    """Return the last checked rate with thoughts less that of the direct baseline of the same seed."""
    return {seed: rate(arms.thoughts[seed], -1) - rate(arms.direct[seed], -1) for seed in both(arms, "direct")}


def thought_growth(arms: Arms) -> Values:
    """Return the relative change of the thoughts' mean tokens over all iterations."""
    return _present({seed: growth(run, "mean_thought_tokens") for seed, run in arms.thoughts.items()})


def response_growth(arms: Arms) -> Values:
    """Return the relative change of the responses' mean tokens per iteration, without length control."""
    return _present({seed: growth_per_iteration(run, "mean_response_tokens") for seed, run in arms.thoughts.items()})


def length_control(arms: Arms) -> Values:
    """Return the responses' growth per iteration with length control less that without it, of the same seed."""
    with_control = {
        seed: growth_per_iteration(run, "mean_response_tokens") for seed, run in arms.length_control.items()
    }
    without, known = response_growth(arms), _present(with_control)
    return {seed: known[seed] - without[seed] for seed in sorted({*known} & {*without})}


def likelihood_term(arms: Arms) -> Values:
    """Return the gain with the larger weight of the likelihood less that with the smaller one, of the same seed."""
    found = {}
    for seed in both(arms, "other_likelihood"):
        runs = [arms.thoughts[seed], arms.other_likelihood[seed]]
        smaller, larger = sorted(runs, key=lambda run: run.config["train"]["nll_weight"])
        found[seed] = change(larger) - change(smaller)
    return found


def unseen_gain(arms: Arms) -> Values:
    """Return the change of the checked rate of instructions with a type of request that training does not have."""
    found = {}
    for seed, run in arms.thoughts.items():
        rates = [UNSEEN.of(run.summary["iterations"][place]) for place in (0, -1)]
        if None not in rates:
            found[seed] = _known(rates[1]) - _known(rates[0])
    return found


def forced_share(arms: Arms, place: int) -> float | None:
    """Return the share of thoughts at an iteration that the policy did not end itself, None where nothing is forced.

    Their end is the budget's, or that of the policy's turn, which goes on with the response.
    """
    runs = [run for run in arms.thoughts.values() if run.config["thought"]["enforce"] == "switch"]
    entries = [run.summary["iterations"][place] for run in runs]
    shares = [1 - entry["format_rate"] / entry["parse_rate"] for entry in entries if entry["parse_rate"]]
    return mean(shares) if shares else None


def thoughts_cut(arms: Arms) -> str | None:
    """Return why lengths of thoughts say nothing, where before and after nearly all end by force near their budget."""
    budget = arms.example.config["sample"]["max_thought_tokens"]
    shares = [forced_share(arms, place) for place in (0, -1)]
    entries = [[run.summary["iterations"][place] for run in arms.thoughts.values()] for place in (0, -1)]
    tokens = [mean(entry["mean_thought_tokens"] for entry in part) for part in entries]
    if any(share is None or share < FORCED for share in shares) or min(tokens) < FULL * budget:
        return None
    before, after = (f"{100 * (share or 0.0):.0f} %" for share in shares)
    return (
        f"the budget of {budget} tokens leaves no room, thoughts have {tokens[0]:.0f} tokens before training and "
        f"{tokens[1]:.0f} after it, and {before} and {after} of them end by force"
    )


def _known(rate: Rate | None) -> float:
    if rate is None or rate.rate is None:
        raise ValueError("a checked rate without a value")
    return rate.rate


def _present(values: Mapping[int, float | None]) -> Values:
    return {seed: value for seed, value in values.items() if value is not None}


def both(arms: Arms, name: str) -> list[int]:
    """Return the seeds that another arm shares with `thoughts`."""
    return sorted({*arms.thoughts} & {*getattr(arms, name)})


def clustered_change(run: FinishedRun) -> Rate | None:
    """Return the run's own paired change of the checked rate, its interval clustered by instruction."""
    return CHECKED.change(run.summary["iterations"][-1])


def excludes_zero(rate: Rate | None) -> bool:
    """Return whether an interval lies above or below 0."""
    return rate is not None and rate.interval is not None and not rate.interval[0] <= 0 <= rate.interval[1]


def rounding_changes(arms: Arms) -> list[float]:
    """Return the changes of runs that differ in rounding alone, the arm's own run first; none without reruns."""
    if not arms.reruns:
        return []
    seed = arms.reruns[0].config["seed"]
    return [change(run) for run in (arms.thoughts[seed], *arms.reruns)]
