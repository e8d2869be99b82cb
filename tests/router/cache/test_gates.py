"""Which differences of wording the gates let pass, and which they must not."""

import pytest

from router.cache import gates
from router.cache.text import read

SAME = [
    ("How do I reset my password?", "How can I reset my password?"),
    ("How do I reset my password?", "Could you please tell me how to reset your password"),
    ("What's the best way to reset a password, please?", "how to reset a password"),
    ("I can't log in", "I cannot log into"),
    ("Why isn't my CSS loading?", "Why is my CSS not loading?"),
    ("Why don't cats like water?", "Why do cats not like water?"),
    ("How do I initialise an array?", "How do I initialize an array?"),
    ("How do I recieve alerts?", "How do I receive alerts?"),
    ("Does the trial last thirty days?", "Does the trial last 30 days?"),
    ("Can I carry a 20kg bag?", "Can I carry a 20 kilogram bag?"),
    ("Is it open on 24 Dec?", "Is it open on 24 December?"),
    ("What is the capital of France?", "What is France's capital?"),
    ("In Kubernetes, how do I restart a pod?", "How do I restart a pod in Kubernetes?"),
    ("What is the difference between TCP and UDP?", "What's the difference between UDP and TCP?"),
    ("Did Bell invent the telephone?", "Was the telephone invented by Bell?"),
    ("Who wrote Hamlet?", "Who was Hamlet written by?"),
    ("Is Alice married to Bob?", "Is Bob married to Alice?"),
    ("How can I become an impatient person?", "How can I become a person who is not patient?"),
    ("How can I become less happy?", "How can I become more unhappy?"),
    ("Do you know if whales are mammals?", "Are whales mammals?"),
    ("Hi! I have a question. How do I cancel? Thanks", "How do I cancel?"),
    ("HOW DO I TURN OFF NOTIFICATIONS", "How do I turn off notifications?"),
    ("What does HTTP 418 mean?", "What is the meaning of HTTP 418?"),
    ("What do you think about chess?", "What are your thoughts on chess?"),
    ("Is it true that cats see in the dark?", "Do cats see in the dark?"),
    ("Which is the best IDE for Java?", "What is the best IDE for Java?"),
    ("What are the best books on physics?", "What are the best physics books?"),
    ("How is TCP different from UDP?", "What is the difference between UDP and TCP?"),
    ("How does a virus differ from a worm?", "What is the difference between a virus and a worm?"),
    ("How do stocks and bonds differ?", "What is the difference between stocks and bonds?"),
    ("How do I know if a melon is ripe?", "How to tell if a melon is ripe"),
    ("What does NATO stand for?", "What is the full form of NATO?"),
    ("What causes hiccups?", "What are the causes of hiccups?"),
    ("What do you mean by inflation?", "What is meant by inflation?"),
    ("What would be the best language for games?", "What is the best language for games?"),
    ("What in your opinion is the best chess opening?", "What is the best chess opening?"),
    ("Where is the best place to watch whales?", "What is the best place to watch whales?"),
    ("What is it like working at a bank?", "How is it like to work at a bank?"),
    ("What are the different types of clouds?", "What are the types of clouds?"),
    ("What are different ways to freeze bread?", "How do I freeze bread?"),
    ("Any way to undo a commit?", "How do I undo a commit?"),
    ("What should I do if I want to become a pilot?", "How do I become a pilot?"),
    ("How can I be a good nurse?", "How do I become a good nurse?"),
    ("Who do you think will win the cup?", "Who will win the cup?"),
    ("Why is nobody using Gopher?", "Why is no one using Gopher?"),
    ("Would you trust somebody you never met?", "Would you trust someone you never met?"),
    ("Are there any lakes in Malta?", "Are there lakes in Malta?"),
    ("Should I rent a flat or not?", "Should I rent a flat?"),
    ("Is it hard to work in the US?", "is it hard to work in the united states"),
    ("What is a non-linear system?", "What is a nonlinear system?"),
    ("What is the largest lake in Kenya?", "What is the biggest lake in Kenya?"),
    ("Who won the 1st World Cup?", "Who won the first World Cup?"),
    ("How do I learn Go in one month?", "How do I learn Go in 1 month?"),
    ("How do I get started with Rust?", "How do I start with Rust?"),
    ("What is the joy about being a nurse?", "What is the joy of being a nurse?"),
]

DIFFERENT = [
    ("number", "Can I return it after 14 days?", "Can I return it after 40 days?"),
    ("number", "Is it valid for 30 minutes?", "Is it valid for 30 hours?"),
    ("number", "Is a team of fifteen people too big?", "Is a team of fifty people too big?"),
    ("number", "Does water boil at 100 degrees?", "Does water boil at -100 degrees?"),
    ("literal", "What is (2 + 3) * 4?", "What is 2 + (3 * 4)?"),
    ("literal", "What is 2 * 3?", "What is 2 / 3?"),
    ("literal", "What does git reset --soft do?", "What does git reset --hard do?"),
    ("literal", "What does grep -v do?", "What does grep -V do?"),
    ("literal", "What does `df.loc` do?", "What does `df.iloc` do?"),
    ("literal", "How do I read a file in C++?", "How do I read a file in C#?"),
    ("literal", "What is in /etc/passwd?", "What is in /etc/shadow?"),
    ("negation", "Is it safe to drink tap water?", "Is it safe not to drink tap water?"),
    ("negation", "Why is my account active?", "Why isn't my account active?"),
    ("negation", "Do you still ship to Norway?", "Do you no longer ship to Norway?"),
    ("negation", "How can I become a patient person?", "How can I become an impatient person?"),
    ("antonym", "How do I enable dark mode?", "How do I disable dark mode?"),
    ("antonym", "How do I turn on 2FA?", "How do I turn off 2FA?"),
    ("antonym", "What should I eat before a run?", "What should I eat after a run?"),
    ("antonym", "How can I become more careful?", "How can I become less careful?"),
    ("name", "Do you deliver to Austria?", "Do you deliver to Australia?"),
    ("literal", "What is non-x + 2?", "What is nonx + 2?"),
    ("negation", "Is there anyone in?", "Is there no one in?"),
    ("negation", "Do cats purr when they sleep?", "Do cats purr when they sleep? Why or why not?"),
    ("name", "Is it hard to work in the US?", "Is it hard to work in us?"),
    ("content", "how do i install it on android", "how do i install it on ios"),
    ("question", "Where is my refund?", "When is my refund?"),
    ("question", "How do I vote?", "How should I vote?"),
    ("question", "How do vaccines work?", "Do vaccines work?"),
    ("question", "How is a virus different from a worm?", "How is a virus similar to a worm?"),
    ("question", "How do I know if he lies?", "How do I know when he lies?"),
    ("question", "What causes should I support?", "What are the causes of support?"),
    ("question", "How is it to be old?", "How is it old?"),
    ("pronoun", "How can you tell if I like you?", "How can I tell if I like you?"),
    ("pronoun", "How can I tell if you lie?", "How can you tell if you lie?"),
    ("pronoun", "How do I know if you lie?", "How do you know if you lie?"),
    ("pronoun", "Do you think I should go?", "Should I go?"),
    ("pronoun", "What is my name?", "What is your name?"),
    ("pronoun", "How do I make him happy?", "How do I make her happy?"),
    ("time", "Is Julia a team lead?", "Did Julia use to be a team lead?"),
    ("time", "Is Julia a team lead?", "Is Julia becoming a team lead?"),
    ("time", "What is due on Monday?", "What is due on Tuesday?"),
    ("degree", "What is the largest lake?", "What is the larger lake?"),
    ("degree", "Is the small plan cheaper?", "Is the small plan smaller?"),
    ("modality", "Is Lea a singer or a dancer?", "Is Lea both a singer and a dancer?"),
    ("modality", "Can dogs eat grapes?", "Should dogs eat grapes?"),
    ("modality", "Do all plans include backups?", "Do some plans include backups?"),
    ("tense", "Who leads the team?", "Who led the team?"),
    ("tense", "What are you doing?", "What do you do?"),
    ("tense", "Which animals are eaten?", "Which animals eat?"),
    ("tense", "Who was killed?", "Who killed?"),
    ("tense", "What is it like to be taught?", "What is it like to teach?"),
    ("tense", "Can dogs be trained?", "Can dogs train?"),
    ("content", "Are violins and violas different types of lutes?", "Are violins and violas types of lutes?"),
    ("content", "Who is the 2nd president?", "Who is the 3rd president?"),
    ("content", "Is this non-toxic?", "Is this toxic?"),
    ("content", "Is wine healthy?", "Is red wine healthy?"),
    ("content", "When is the training schedule out?", "When is the train schedule out?"),
    ("content", "Does he have work?", "Does he work?"),
    ("content", "How do I be a model?", "How do I model?"),
    ("content", "Good morning in Italian", "Thank you in Italian"),
    ("content", "How do you say please in Thai?", "How do you say thanks in Thai?"),
    ("content", "What is the difference between 'in' and 'on'?", "What is the difference between 'in' and 'at'?"),
    ("content", "Explain the code for quicksort", "Show me the code for quicksort"),
    ("link", "Can I transfer money to my account?", "Can I transfer money for my account?"),
    ("link", "Can I be there for 2 hours?", "Can I be there in 2 hours?"),
    ("order", "How do I convert JSON to CSV?", "How do I convert CSV to JSON?"),
    ("order", "How is fire different from ice in films?", "How is fire in films different from ice?"),
    ("order", "Did Germany invade France?", "Did France invade Germany?"),
    ("order", "Did the dog bite the man?", "Was the dog bitten by the man?"),
    ("order", "Who killed Lincoln?", "Who did Lincoln kill?"),
    ("order", "Is Tom loved by Ann?", "Is Ann loved by Tom?"),
    ("order", "If Tom and Ann were alone, would he reject her?", "If Tom and Ann were alone, would she reject him?"),
    ("order", "Is Ann taller than Tom?", "Is Tom taller than Ann?"),
    ("order", "Who is Tom's friend Ann?", "Who is Ann's friend Tom?"),
    ("order", "Why did Tom and Ann's dad leave?", "Why did Ann and Tom's dad leave?"),
    ("order", "Did Tom hit Ann and Bob kick Sue?", "Did Tom hit Bob and Ann kick Sue?"),
    ("order", "Which companies in India sell cars?", "Which companies sell cars in India?"),
    ("order", "Why do people that do not smoke get ill?", "Why do not people that smoke get ill?"),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_another_wording_of_the_same_question_passes(a: str, b: str) -> None:
    assert gates.judge(read(a), read(b)) is None
    assert gates.judge(read(b), read(a)) is None


@pytest.mark.parametrize(("gate", "a", "b"), DIFFERENT)
def test_a_difference_that_changes_the_answer_is_refused_by_name(gate: str, a: str, b: str) -> None:
    assert gate in [verdict.gate for verdict in gates.refusals(read(a), read(b))]
    assert gates.judge(read(b), read(a)) is not None


def test_a_refusal_says_what_differed() -> None:
    verdict = gates.judge(read("Can I return it after 14 days?"), read("Can I return it after 40 days?"))
    assert verdict is not None
    assert (verdict.gate, verdict.detail) == ("number", "14 day / 40 day")


def test_code_that_differs_in_case_alone_is_not_the_same_text() -> None:
    assert gates.judge(read("what does `git -v` do"), read("what does `git -V` do")) is not None


def test_texts_of_nothing_but_courtesy_are_compared_word_for_word() -> None:
    assert gates.judge(read("Hello there!"), read("hello there")) is None
    assert gates.judge(read("Hello there!"), read("Thanks!")) is not None
