"""A policy that answers: what `policy=` names, loaded once, asked in its own thought format with the turns before."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from tpo.model.asked import Asked, ask
from tpo.model.chat import Chat, load_chat
from tpo.model.policy import Policy, PolicyRef, open_policy
from tpo.model.rendering import Turn
from tpo.sample.completions import plan_decoding
from tpo.sample.decoding import EngineSettings, LiveEngine, Request
from tpo.store.errors import TpoError
from tpo.use.answer import Answer
from tpo.use.split_stream import Delta


class QuestionError(TpoError):
    """A conversation that the policy cannot be asked; says why."""


class TooLongError(QuestionError):
    """A conversation that leaves no room for an answer in the model's context."""


@dataclass(frozen=True)
class Options:
    """How a policy is asked once; None is as the policy's settings have it.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1].
        max_thought_tokens: Budget of the thought; without a forced switch, of the sum that it shares with the response.
        max_tokens: Bound of thought and response together; at least half is left to the response where a switch can be
            forced. None is the response's own budget, or what the context leaves of it.
        stop: Strings that end a response.
        is_direct: Whether it is asked without a thought.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_thought_tokens: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    is_direct: bool = False


class LoadedPolicy:
    """A policy with its tokenizer, ready to be asked.

    Attributes:
        ref: Which policy.
        policy: Its files.
        chat: Its tokenizer.
        engine: What samples from it.
    """

    def __init__(self, ref: PolicyRef, policy: Policy, chat: Chat, engine: LiveEngine) -> None:
        """Put together what was loaded; `load` does the loading."""
        self.ref, self.policy, self.chat, self.engine = ref, policy, chat, engine
        self.asked = ask(ref.form, policy.conventions)

    @classmethod
    def load(cls, ref: PolicyRef, engine: EngineSettings, *, seed: int) -> "LoadedPolicy":
        """Load a policy.

        Args:
            ref: Which one.
            engine: What samples.
            seed: For engines with one random stream for all samples.

        Raises:
            TpoError: If the engine cannot sample from it here, or it cannot be asked in its format.
        """
        policy = open_policy(ref.config, ref.inputs)
        ask(ref.form, policy.conventions)  # before anything heavy
        chat = load_chat(policy)
        return cls(ref, policy, chat, engine.make_live(policy, chat=chat, max_len=policy.max_model_len, seed=seed))

    @property
    def asked_directly(self) -> Asked:
        """How it is asked without a thought.

        Raises:
            AskError: If its thoughts cannot be switched off.
        """
        return ask(self.ref.settings.direct_form, self.policy.conventions)

    def begin(self, turns: Sequence[Turn], *, key: str, seed: int, options: Options = Options()) -> Answer:  # noqa: B008
        """Return an answer to a conversation, without tokens yet; nothing is sampled.

        Args:
            turns: That end with the user's; a system turn may stand first. Answers are told without thoughts.
            key: Of the engine's request.
            seed: Of the sample.
            options: How it is asked.

        Raises:
            QuestionError: If the chat template does not take these turns, or they leave no room for an answer.
            AskError: If it is to answer directly and cannot.
        """
        asked = self.asked_directly if options.is_direct else self.asked
        prompt_ids = self._prompt_ids(asked, turns)
        settings = vars(self.ref.sampling) | {
            name: value
            for name in ("temperature", "top_p", "max_thought_tokens")
            if (value := getattr(options, name)) is not None
        }
        settings |= self._budgets(asked, len(prompt_ids), settings["max_thought_tokens"], options.max_tokens)
        decoding = plan_decoding(self.chat.tokenizer, asked, settings)
        return Answer(self.chat, asked, Request(key, prompt_ids, {0: seed}), decoding, stop=options.stop)

    def _prompt_ids(self, asked: Asked, turns: Sequence[Turn]) -> list[int]:
        if not turns or turns[-1].role != "user":
            raise QuestionError("the last message must be the user's")
        if any(turn.role == "system" for turn in turns[1:]):
            raise QuestionError("a system message must be the first one")
        if turns[0].role == "system" and not self.policy.conventions.takes_system:
            raise QuestionError("the model's chat template has no system message: put it into the user's")
        *before, last = turns
        try:
            return asked.context(self.chat.tokenizer, last.text, before=before)
        except TpoError:
            raise
        except Exception as error:  # a template may raise anything on turns that it does not expect
            raise QuestionError(f"the model's chat template does not take these messages: {error}") from error

    def _budgets(self, asked: Asked, num_prompt: int, thought: int, max_tokens: int | None) -> dict[str, int]:
        """Return budgets of thought and response that fit behind the prompt, the switch between them included.

        Without a switch they are one budget, which all of it is in the response's.

        Raises:
            TooLongError: If they do not fit.
        """
        longest, response = self.policy.max_model_len, self.ref.sampling.max_response_tokens
        room = longest - num_prompt
        switch = [] if asked.switch is None else self.chat.tokenizer.encode(asked.switch, add_special_tokens=False)
        thought = thought if asked.form.has_thought else 0
        total = min(room, thought + len(switch) + response)
        if max_tokens is not None:
            total = max_tokens
            thought = max(1, min(thought, (total - len(switch)) // 2)) if switch else thought
        needed = thought + len(switch) + 1 if switch else 1
        if needed > total or total > room:
            raise TooLongError(
                f"the conversation takes {num_prompt} of the {longest} tokens of the model's context "
                f"(model.max_model_len), and {max(needed, total if max_tokens else 0)} are needed for "
                f"{'a thought and an answer' if thought else 'an answer'}, of {total} that are left or allowed: "
                "shorten it, or change the budgets"
            )
        if not switch:
            return {"max_thought_tokens": 0, "max_response_tokens": total}
        return {"max_thought_tokens": thought, "max_response_tokens": total - thought - len(switch)}


def answer_to_end(engine: LiveEngine, answer: Answer) -> Generator[Delta, None, None]:
    """Sample an answer with an engine that nobody else uses; yield after every step what has become certain.

    The caller may stop reading, which takes the request out.
    """
    key = answer.request.key
    engine.add(answer.request, answer.decoding)
    try:
        while answer.reply is None:
            for progress in engine.step():
                if progress.key == key and answer.reply is None:
                    yield answer.feed(progress)
    finally:
        engine.cancel(key)
