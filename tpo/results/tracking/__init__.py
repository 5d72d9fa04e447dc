"""Where metrics go while a run proceeds: Weights & Biases, or nowhere.

A job is one W&B run with the job type "run" or "evaluate", a sweep is a group (`labels.py`). Stable names:

history, over `iteration` (0 is the untrained policy)
    eval/change_win_rate, eval/change_score, eval/change_response_tokens: since iteration 0, paired by instruction, and
        with checks eval/change_checked; from iteration 1 on, the headline
    eval/checked, eval/checked_unseen   checked rate, strict, of the types of training and of others
    eval/win_rate, eval/win_rate_answered, eval/win_rate_length_controlled
        each of these and of the changes also with _low, _high, _num_prompts, _num_unscored; of changes also _p_value
    eval/num_answers, eval/num_no_response   of the policy; the latter count as losses or are left out
    eval/second_judge_win_rate, eval/second_judge_change, eval/second_judge_agreement   likewise, where `eval.judge` is
    eval/category/<category>    win rate
    eval/mean_thought_tokens, eval/mean_response_tokens, eval/format_rate, eval/parse_rate, eval/mean_score
    eval/cut_thought_rate, eval/empty_thought_rate   fractions
    sample/*, judge/*           what the stages that sampled and judged the training completions counted
    pairs/num_pairs, pairs/drop_<reason>
    tables/samples, tables/pairs
    tables/category_gains       a row per category (`GAIN_COLUMNS` in `metrics.py`)
    charts/category_gains       bars of the same gains
history, over `train/step`, which keeps counting across iterations, while the training goes on
    train/*                     trl's own names, and train/iteration
history, every ten seconds while a stage runs
    progress/<stage>            fraction of the stage that is done: progress/sample, progress/judge, progress/train, ...
    progress/tokens_per_second, progress/device_memory_mib   of that stage; memory in use, where there is a device
summary of a run
    final_change_win_rate, final_win_rate, ...: all of the last iteration, under the names above with final_ for eval/
    null_control_win_rate, null_control_score   where `eval.null_control`; one half and 0 are right
    final_mean_thought_tokens, final_mean_response_tokens, final_cut_thought_rate
    final_validation_score      the selected epoch's mean judge score: a pairwise judge's compares with no other run's
    num_iterations, num_pairs (of all iterations), num_stages, num_stages_reused
    total_seconds               of all stages, whoever computed them: what the run costs by itself
    computed_seconds            of those that this job computed
summary of an evaluation
    eval/<key>/...              the numbers of its `summary.json`, as they are nested

`figures/*` are the run's figures. Files: `config.json` and `summary.json` of the run's folder, from which `download.py`
reads results back. Artifacts: those of `lineage.py`, and with `tracking.upload_adapters` the selected
adapters as `adapter-<run>:iteration-<n>`.
"""

from tpo.results.tracking.load import TRACKED, load_tracker, log_evaluation
from tpo.results.tracking.tracker import Tracker

__all__ = ["TRACKED", "Tracker", "load_tracker", "log_evaluation"]
