"""Write the texts of the demo shop: departments, interests, and the grammar that makes an item's title and text.

Each department sells the same kinds of item to users of four interests. An item's *cue* shows its interest: one of
seven wordings of the same idea that share no word, so two items for one interest seldom look alike. Only their
audiences show that "featherweight" and "low-bulk" mean the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

INTERESTS_EACH = 4
CUES_EACH = 7
KINDS_EACH = 10
NAMED_SHARE = 0.3
"""Share of texts that say in plain words what the item is for; the others leave it to their cue."""


@dataclass(frozen=True)
class Interest:
    """An interest of users: `phrase` names it, `identity` names its users, `cues` are wordings in its items."""

    phrase: str
    identity: str
    cues: tuple[str, ...]


@dataclass(frozen=True)
class Department:
    """Ten kinds of item (`kinds`) and four interests."""

    name: str
    kinds: tuple[str, ...]
    interests: tuple[Interest, ...]


_VOCABULARY = """
Camping > tent, sleeping bag, stove, lantern, tarp, cooler, rucksack, camp mug, groundsheet, headlamp
  ultralight backpacking > gram-counting hiker > featherweight, pared-back, barely-there, wisp-thin, trimmed-down, \
    palm-sized, low-bulk
  family camping > weekend parent > roomy, stand-up-height, stumble-proof, everybody-fits, quick-pitch, spill-safe, \
    colour-coded
  bushcraft > woodland maker > waxed, hand-forged, field-mendable, flint-ready, oiled-canvas, carve-friendly, \
    plastic-free
  winter expeditions > snow traveller > storm-rated, down-lined, glove-friendly, frost-proof, double-walled, \
    blizzard-tested, sub-zero
Home coffee > grinder, kettle, dripper, cup set, coffee scale, tamper, carafe, milk jug, bean canister, filter pack
  home espresso > home barista > nine-bar, crema-minded, portafilter-ready, dial-in, shot-timed, puck-true, steam-wand
  slow pour-over > patient brewer > gooseneck, bloom-friendly, slow-drip, paper-rinsed, swirl-shaped, \
    clarity-first, single-origin
  coffee on the road > train commuter > leak-locked, cup-holder, one-handed, knock-about, lidded, bag-safe, desk-bound
  bean roasting > curious roaster > crack-watching, chaff-catching, green-bean, even-heat, batch-logged, \
    fan-cooled, smoke-light
Running > running shoes, hydration vest, shorts, socks, watch strap, soft flask, cap, windbreaker, foam roller, \
    waist belt
  road marathons > marathon trainee > tempo-tuned, pace-banded, carbon-plated, race-day, long-run, negative-split, \
    flat-course
  trail running > trail runner > lugged, mud-shedding, scree-ready, rock-plated, fell-bred, ridge-line, \
    stream-crossing
  gentle jogging > returning exerciser > cushioned, knee-kind, easy-paced, couch-to-five, wide-toed, forgiving, \
    breath-easy
  night running > after-work runner > reflective, lamp-lit, high-visibility, glow-piped, dusk-proof, street-bright, \
    blinker-equipped
Sewing > fabric bundle, thread set, paper pattern, shears, pin cushion, quilting ruler, machine foot, zip pack, \
    needle case, interfacing
  dressmaking > wardrobe maker > drapey, bias-cut, dart-shaped, bodice-ready, hem-weighted, sleeve-friendly, \
    close-fitted
  quilting > patchwork quilter > pre-cut, jelly-roll, block-piecing, batting-friendly, quarter-inch, fat-quarter, \
    free-motion
  clothes mending > thrifty mender > darning, patch-and-go, visible-stitch, make-do, knee-saving, iron-on, sashiko
  costume sewing > costume maker > sequinned, boned, stage-bright, theatrical, cosplay-grade, trim-heavy, \
    convention-ready
Board games > board game, expansion box, dice set, card sleeves, playmat, token tray, rule book, miniatures set, \
    score pad, storage crate
  strategy board games > strategy thinker > engine-building, worker-placement, three-hour, deep-planning, \
    tech-tree, area-control, brain-burning
  party games > party host > quick-fire, shout-aloud, eight-player, laugh-out-loud, icebreaking, bluff-happy, \
    team-splitting
  games for small children > playful parent > chunky-pieced, picture-only, first-turn, memory-matching, \
    gentle-losing, wipe-clean, colour-spotting
  solo puzzles > quiet puzzler > one-player, logic-grid, unhurried, campaign-journal, legacy-style, cipher-laden, \
    escape-style
Gardening > seed tray, trowel, pruner, planter, watering can, compost bin, trellis, garden gloves, soil mix, hose reel
  vegetable growing > allotment keeper > crop-rotating, slug-wary, raised-bed, harvest-heavy, bean-row, root-deep, \
    frost-dated
  balcony gardening > city balcony gardener > railing-hung, pot-sized, drip-free, wind-steady, sun-trap, stackable, \
    renter-friendly
  wildlife gardening > garden naturalist > bee-drawing, hedgehog-gapped, native-mix, pollen-rich, pond-edge, \
    nest-friendly, unmown
  houseplants > indoor plant parent > shade-happy, humidity-loving, mist-fine, leaf-polishing, repot-ready, \
    windowsill, moss-poled
Cycling > cycle helmet, saddle, light set, pannier, jersey, multitool, floor pump, lock, mudguard, handlebar tape
  road cycling > road racer > aero, peloton-cut, watt-saving, climb-light, cadence-smooth, sprint-stiff, drop-bar
  mountain biking > mountain biker > dropper-ready, berm-hungry, full-travel, rock-garden, knee-padded, tubeless, \
    jump-line
  bicycle commuting > city cyclist > rack-mounted, office-neat, rain-shrugging, kerb-tough, folding, traffic-wise, \
    chain-guarded
  bicycle touring > long-distance tourer > expedition-racked, steel-framed, border-crossing, all-day, map-cased, \
    fully-loaded, spoke-spare
Photography > camera strap, tripod, lens filter, film roll, memory card, flash, camera bag, backdrop, photo album, \
    light meter
  film photography > analogue photographer > grainy, darkroom, thirty-five-millimetre, hand-metered, \
    push-processed, contact-sheet, manual-wind
  bird photography > birdwatcher > long-reach, hide-friendly, silent-shutter, feather-sharp, gimbal-headed, \
    dawn-quiet, camouflaged
  portrait photography > portrait photographer > soft-lit, bokeh-rich, skin-true, catch-light, beauty-dish, \
    studio-grey, tethered
  phone photography > everyday snapper > clip-on, pocket-flat, selfie-steady, magnet-snap, share-ready, app-paired, \
    thumb-triggered
Baking > flour, baking tin, proofing basket, whisk, mixing bowl, piping set, rolling pin, thermometer, \
    bench scraper, yeast
  sourdough baking > sourdough baker > levain-loving, long-ferment, open-crumb, crackle-crusted, starter-fed, \
    hydration-marked, stone-milled
  cake decorating > cake decorator > fondant-smooth, petal-tipped, tiered, buttercream, sugar-paste, crumb-coated, \
    mirror-glazed
  gluten-free baking > gluten-free baker > wheatless, xanthan-blended, coeliac-safe, rice-based, crumb-binding, \
    separate-line, oat-certified
  baking with children > kitchen-table parent > sprinkle-topped, small-handed, no-oven, step-stool, animal-shaped, \
    mess-friendly, taste-as-you-go
Music making > headphones, cable, music stand, microphone, string set, keyboard, tuner, effects pedal, songbook, \
    instrument case
  home recording > bedroom producer > low-latency, phantom-powered, stem-ready, flat-response, loop-based, \
    midi-mapped, pop-filtered
  acoustic guitar > acoustic guitarist > fingerstyle, phosphor-bronze, open-tuned, fireside, capo-ready, \
    spruce-topped, travel-scale
  classical piano > piano student > graded, weighted-key, exam-board, urtext, pedal-true, hand-span, metronome-led
  DJ sets > weekend DJ > beat-matched, slip-mat, crossfading, cue-point, club-loud, vinyl-feel, tempo-synced
Pets > pet bed, lead, feeding bowl, chew toy, grooming brush, carrier, treat pouch, pet gate, blanket, scratching post
  puppy training > puppy trainer > reward-based, clicker-led, teething-proof, recall-building, crate-sized, \
    nip-redirecting, first-weeks
  indoor cats > cat companion > perch-high, pounce-worthy, litter-smart, purr-soft, catnip-filled, hairball-easing, \
    sill-mounted
  small pets > small-pet keeper > burrow-deep, hay-fed, whisker-width, gnaw-safe, tunnel-linked, sawdust-free, \
    hutch-ready
  long dog walks > all-weather dog walker > hill-proof, drizzle-ready, hands-free, bog-washable, tick-checking, \
    harness-cut, paw-balmed
Art studio > brush set, paper block, easel, palette, pencil tin, ink bottle, canvas, varnish, sketchbook, pigment set
  watercolour painting > watercolour painter > granulating, cold-pressed, wet-on-wet, wash-even, sable-haired, \
    bleed-soft, lift-able
  urban sketching > urban sketcher > pocket-folding, quick-line, café-table, fineliner, stand-and-draw, smudge-shy, \
    street-corner
  oil painting > oil painter > impasto, linseed-rich, slow-drying, gesso-primed, bristle-firm, alla-prima, glaze-deep
  comic drawing > comic artist > panel-ruled, brush-pen, bleed-proof, lettering-neat, storyboard, blue-line, \
    cross-hatching
Wellbeing > exercise mat, foam block, floor cushion, candle, resistance band, journal, eye mask, massage ball, \
    tea blend, weighted wrap
  morning yoga > yoga beginner > sun-salute, grip-textured, alignment-lined, vinyasa-smooth, cork-backed, \
    breath-led, stretch-deep
  home strength training > home lifter > rep-counting, progressive, knurled, load-stacking, grip-chalked, \
    anchor-door, plate-loaded
  meditation > mindful sitter > stillness-minded, buckwheat-filled, bell-timed, incense-calm, lotus-high, \
    silent-hour, gratitude-led
  better sleep > light sleeper > lights-out, lavender-scented, hush-soft, melatonin-kind, blackout, wind-down, jet-lag
Home tech > desk lamp, monitor arm, network switch, smart plug, keyboard kit, cable tray, speaker, sensor, \
    docking station, power bank
  home automation > smart home tinkerer > scene-scheduling, hub-free, voice-woken, presence-aware, rule-based, \
    mesh-radio, dashboard-ready
  ergonomic working > remote worker > wrist-neutral, eye-level, posture-kind, sit-stand, glare-cutting, call-clear, \
    back-saving
  retro computing > retro computing fan > eight-bit, beige-era, floppy-compatible, scanline, solder-yourself, \
    cartridge-slot, mechanical-click
  home servers > home server keeper > always-on, rack-unit, raid-minded, passively-cooled, self-hosted, \
    gigabit-trunked, watt-frugal
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


@cache
def departments() -> tuple[Department, ...]:
    """Return all departments, in shop order."""
    found: list[Department] = []
    for line in _VOCABULARY.strip().splitlines():
        if line.startswith("  "):
            phrase, identity, cues = (part.strip() for part in line.split(">"))
            last = found[-1]
            found[-1] = Department(last.name, last.kinds, (*last.interests, Interest(phrase, identity, _words(cues))))
        else:
            name, kinds = (part.strip() for part in line.split(">"))
            found.append(Department(name, _words(kinds), ()))
    return tuple(found)


@cache
def interests() -> tuple[Interest, ...]:
    """Return all interests; those of department d are `[4 * d, 4 * d + 4)`."""
    return tuple(interest for department in departments() for interest in department.interests)


BRANDS = _words(
    "Halden, Ostrava, Pell, Quillon, Marlow, Tarn, Vesper, Brisk, Oakhill, Lumen, Corvid, Fathom, Alder, Nimbus, "
    "Rook, Solace, Tindle, Umber, Wexley, Yarrow, Bramble, Cinder, Dovetail, Ember, Fennel, Gable, Harrow, Islet, "
    "Juniper, Kestrel, Linden, Merrow, Norland, Otter, Pike, Quarry, Ridgeway, Saffron, Thistle, Upland"
)
MODELS = _words(
    "Arc, Beacon, Canto, Delta, Echo, Folio, Grove, Hollow, Iris, Jetty, Knoll, Ledger, Mira, Nova, Orbit, Pace, "
    "Quest, Ripple, Stride, Terra, Unity, Vale, Willow, Axis, Birch, Cove, Drift, Edge, Flint, Glade, Haven, "
    "Inlet, Joy, Keel, Loom, Meadow"
)
COLOURS = _words("slate, moss, rust, sand, navy, cream, charcoal, olive, plum, teal, ochre, graphite, ivory, copper")
MATERIALS = _words(
    "recycled nylon, solid beech, brushed steel, organic cotton, anodised aluminium, cork, stoneware, soft silicone, "
    "birch ply, merino, bamboo, tough polymer"
)
PLACES = _words(
    "a small workshop in the hills, a family firm by the coast, a cooperative of twelve people, "
    "a studio in the old harbour, the makers of last year's bestseller, a young company with two products"
)

OPENINGS = (
    "A {cue} {kind} in {material}, finished in {colour}.",
    "This {kind} is {cue} where it matters and comes in {colour}.",
    "Our most {cue} {kind} yet, made of {material}.",
    "Look no further for a {cue} {kind}; the {colour} one sells out first.",
    "{material} and a {cue} design set this {kind} apart.",
    "The {brand} {kind} stays {cue} after years of use.",
    "A {kind} with one idea: be {cue} and nothing else.",
    "Customers call this {colour} {kind} {cue}, and we agree.",
)
SECOND_CUES = (
    "Reviewers also note how {cue} it is.",
    "Think {cue}, without the usual price.",
    "The new version is more {cue} than before.",
)
NAMED = (
    "Bought mostly for {interest}.",
    "If {interest} is your thing, this is for you.",
    "Made with {interest} in mind.",
)
PLAIN = (
    "Made by {place}.",
    "Comes with a two-year guarantee and free returns.",
    "The parts can be replaced one by one.",
    "Weighed, measured and tested by our own staff.",
    "Ships in a plain cardboard box without plastic.",
    "Pairs well with the rest of the {brand} range.",
    "Available in {colour} while stock lasts.",
    "Care is simple: wipe it and let it dry.",
)
CONTRASTS = (
    "If you want something {cue}, look elsewhere.",
    "It is not {cue} and does not pretend to be.",
    "For the {cue} kind, see our other shelf.",
)
BARE_OPENINGS = (
    "A {colour} {kind} in {material}.",
    "A dependable {kind} from {brand}.",
    "The {model} {kind}, now in {colour}.",
)


def write_items(
    rng: np.random.Generator, kinds: NDArray[np.int64], worded_for: NDArray[np.int64], missing: NDArray[np.bool_]
) -> tuple[list[str], list[str | None], list[str]]:
    """Write titles, texts and '|'-separated categories of n items.

    `kinds` (n,) is department * 10 + kind, `worded_for` (n,) the interest whose cues the item uses, in the item's own
    department or not, and `missing` (n,) says which items have no text (and a title without a cue).
    """
    n_draws = 18
    draws = rng.random((len(kinds), n_draws))
    titles: list[str] = []
    texts: list[str | None] = []
    categories: list[str] = []
    for kind, interest, absent, row in zip(kinds.tolist(), worded_for.tolist(), missing.tolist(), draws, strict=True):
        department = departments()[kind // KINDS_EACH]
        noun = department.kinds[kind % KINDS_EACH]
        title, text = _write_one(department, noun, interest, absent, row.tolist())
        titles.append(title)
        texts.append(None if absent else text)
        categories.append(f"{department.name}|{noun.capitalize()}")
    return titles, texts, categories


def _pick(options: Sequence[str], draw: float) -> str:
    return options[int(draw * len(options))]


def _write_one(department: Department, noun: str, interest: int, absent: bool, draws: list[float]) -> tuple[str, str]:
    cues = interests()[interest].cues
    first = int(draws[0] * CUES_EACH)
    second = (first + 1 + int(draws[1] * (CUES_EACH - 1))) % CUES_EACH
    words = {
        "kind": noun,
        "brand": _pick(BRANDS, draws[2]),
        "model": _pick(MODELS, draws[3]),
        "colour": _pick(COLOURS, draws[4]),
        "material": _pick(MATERIALS, draws[5]),
        "place": _pick(PLACES, draws[6]),
    }
    title_cue = f"{cues[second].capitalize()} " if draws[7] < 0.3 and not absent else ""
    sentences = [_pick(OPENINGS, draws[8]).format(cue=cues[first], **words)]
    if draws[9] < 0.35:
        sentences.append(_pick(SECOND_CUES, draws[10]).format(cue=cues[second], **words))
    if draws[16] < NAMED_SHARE:
        sentences.append(_pick(NAMED, draws[17]).format(interest=interests()[interest].phrase))
    if draws[11] < 0.7:
        sentences.append(_pick(PLAIN, draws[12]).format(**words))
    if draws[13] < 0.15:
        other = department.interests[int(draws[14] * INTERESTS_EACH)]
        sentences.append(_pick(CONTRASTS, draws[15]).format(cue=other.cues[first], **words))
    sentences = [sentence[0].upper() + sentence[1:] for sentence in sentences]
    return f"{words['brand']} {words['model']} {title_cue}{noun}", " ".join(sentences)
