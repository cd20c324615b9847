"""Three small worlds the code was not written for: a question, a folder of documents, and a table each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class UnseenSet:
    """`expected` is the label that the computed answer must name."""

    name: str
    question: str
    documents: dict[str, str]
    table_name: str
    table: str
    group: str
    measure: str
    expected: str


BEES = UnseenSet(
    name="bees",
    question="Why do honey bees cluster in winter, and which hive type gave the highest honey yield?",
    documents={
        "winter.md": """# Bees in winter

Honey bees do not hibernate. When the air falls below 14 degrees Celsius, the colony forms a winter cluster
around its queen. The bees of the winter cluster shiver their flight muscles and so keep the centre between 20
and 35 degrees. Honey bees on the outside of the cluster change places with those inside, so that none freezes.

## Food

A colony eats 15 to 20 kilograms of honey in a winter. Bees cluster close to their stores, because a cold bee
cannot walk far over empty comb.
""",
        "hives.md": """# Hives

A Langstroth hive has movable frames in stacked boxes. A top-bar hive has no frames: the bees hang their comb
from bars. In winter the honey bees of a top-bar hive cluster at one end and move along the bars as they eat.

Thick walls keep the winter cluster warm with less honey. Damp is worse for honey bees in winter than cold,
because wet bees in the cluster lose their heat.
""",
        "keeping.md": """# Keeping bees through winter

Honey bees break the winter cluster on mild days to fly out and clean themselves. A keeper who opens the hive in
winter breaks the cluster and costs the bees warmth and honey. Mice are kept out by a narrow entrance, and the
weight of the hive tells how much honey is left for the winter cluster.
""",
        "dances.txt": """The waggle dance tells other bees where flowers are. The angle of the dance to the vertical
is the angle to the sun. A longer dance means a longer flight.""",
    },
    table_name="harvest.csv",
    table="""apiary,hive_type,colony_strength,honey_yield_kg
Hilltop,Langstroth,8,31.5
Hilltop,Top-bar,7,18.2
Orchard,Langstroth,9,36.0
Orchard,Warre,6,22.4
Meadow,Top-bar,8,20.1
Meadow,Langstroth,7,28.9
Forest,Warre,5,17.6
Forest,Top-bar,6,15.3
""",
    group="hive_type",
    measure="honey_yield_kg",
    expected="Langstroth",
)

TRAMS = UnseenSet(
    name="trams",
    question="How do trams recover energy when braking, and what is the mean delay per line?",
    documents={
        "braking.md": """# Braking

A tram slows down with its motors: in regenerative braking the motors work as generators and feed energy back
into the overhead wire. Another tram nearby must take the recovered energy, or it is turned into heat in the
braking resistors. Trams with supercapacitors on the roof keep the energy of braking for the next start.

Below 5 kilometres per hour the motors recover no energy and disc brakes hold the tram.
""",
        "network.md": """# The network

Substations feed the overhead wire every two kilometres. A reversible substation can return the energy that
braking trams recover to the city grid. Without it, energy from braking is lost when no other tram is near.

Sand is strewn before the wheels when rails are slippery in autumn.
""",
        "stores.md": """# Stores of energy

Supercapacitors on trams recover about a third of the energy of braking. A flywheel beside the line can recover
energy from several trams that are braking at once, but its bearings need care. Batteries recover braking energy
more slowly than supercapacitors and wear out sooner.
""",
        "fares.md": """# Fares

A day ticket is valid on all trams until three in the morning. Dogs travel free of charge.
""",
    },
    table_name="delays.csv",
    table="""day,line,passengers,delay_minutes
2026-03-02,Red,1450,3.5
2026-03-02,Blue,980,1.0
2026-03-02,Green,1210,6.5
2026-03-03,Red,1502,4.5
2026-03-03,Blue,1011,2.0
2026-03-03,Green,1190,8.5
2026-03-04,Red,1398,2.5
2026-03-04,Blue,955,1.5
2026-03-04,Green,1244,7.0
""",
    group="line",
    measure="delay_minutes",
    expected="Green",
)

GLASS = UnseenSet(
    name="glass",
    question="What makes window glass break under heat, and which glazing has the lowest heat loss?",
    documents={
        "stress.md": """# Thermal stress

Window glass breaks under heat when one part of the pane is much warmer than another. The warm centre expands,
the cold edge in the frame does not, and the edge is torn apart by tension. Ordinary float glass stands a
difference of about 40 kelvin; toughened glass stands 200 kelvin.

Scratches at the edge of window glass are where a break under heat begins.
""",
        "frames.md": """# Frames and shade

A deep frame keeps the edge of the glass cold and raises the stress in the sun. Blinds close behind a window
reflect heat into the glass, and partial shade makes some of the pane hot while the rest stays cold. Polished
edges make glass break less often under heat.
""",
        "choice.md": """# Choosing glass

Toughened glass does not break under heat in a window, but it cannot be cut afterwards. Wired window glass breaks
under heat at a small difference, because the wire expands in another way than the glass, yet the wire holds the
pieces together in a fire.
""",
        "history.md": """# History

Crown glass was spun by hand into a disc. The thick middle was sold cheaply and is known as the bullion.
""",
    },
    table_name="panes.csv",
    table="""pane_id,glazing,thickness_mm,heat_loss_w
1,single,4,5.8
2,single,6,5.7
3,double,20,2.8
4,double,24,2.6
5,triple,36,0.7
6,triple,44,0.6
""",
    group="glazing",
    measure="heat_loss_w",
    expected="triple",
)

SETS = (BEES, TRAMS, GLASS)
